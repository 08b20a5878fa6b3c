"""What a transcription request must satisfy before anything is reserved, and what it may cost at most. Pure."""

import math
from typing import Final

from quillgate.v1.transcription_pb2 import TranscriptionOptions
from quillgate_core.catalogue import Model
from quillgate_core.counting import messages_for_tokens
from quillgate_core.errors import InvalidRequest

ENDPOINT: Final = "audio.transcriptions"

FORMATS: Final = ("json", "text", "srt", "verbose_json", "vtt", "diarized_json")
GRANULARITIES: Final = ("word", "segment")

_STREAMED_FORMATS: Final = frozenset({"json", "text", "diarized_json"})
_ASKED_FORMATS: Final = {"text": "json", "srt": "verbose_json", "vtt": "verbose_json"}

_TOKENS_PER_S: Final = 25
"""Most tokens that a second of sound costs with any provider known to us, its transcript included."""


def check_options(options: TranscriptionOptions, *, stream: bool) -> None:
    """Raises InvalidRequest, naming the form field, for options that can never work."""
    if not options.model:
        raise InvalidRequest("Missing required parameter: 'model'.", param="model", code="missing_required_parameter")
    _check_value("response_format", format_of(options), FORMATS)
    for granularity in options.timestamp_granularities:
        _check_value("timestamp_granularities", granularity, GRANULARITIES)
    if options.timestamp_granularities and format_of(options) != "verbose_json":
        text = "'timestamp_granularities' is supported only with response_format 'verbose_json'."
        raise InvalidRequest(text, param="timestamp_granularities", code="unsupported_value")
    if not 0 <= options.temperature <= 1:
        problem = f"expected a value from 0 to 1, but got {options.temperature:g} instead"
        text = f"Invalid value for 'temperature': {problem}."
        raise InvalidRequest(text, param="temperature", code="invalid_value")
    if stream and format_of(options) not in _STREAMED_FORMATS:
        text = f"'stream' is not supported with response_format '{format_of(options)}'."
        raise InvalidRequest(text, param="stream", code="unsupported_value")


def check_model(model: Model) -> None:
    """Raises InvalidRequest for a model that does not transcribe."""
    if ENDPOINT not in model.endpoints:
        text = f"The model `{model.id}` does not support the endpoint `/audio/transcriptions`."
        raise InvalidRequest(text, param="model", code="unsupported_value")


def format_of(options: TranscriptionOptions) -> str:
    """Returns the form of the answer."""
    return options.response_format or "json"


def asked_options(options: TranscriptionOptions) -> TranscriptionOptions:
    """Returns the options as a provider gets them: texts are made here, of JSON with a usage, so all count alike."""
    asked = TranscriptionOptions()
    asked.CopyFrom(options)
    asked.response_format = _ASKED_FORMATS.get(format_of(options), format_of(options))
    return asked


def duration_messages(duration_s: float, model: Model) -> int:
    """Returns what a length of sound counts: a message for each period that has begun, at least 1."""
    return max(1, math.ceil(duration_s / model.audio_seconds_per_message))


def hold_messages(duration_s: float, options: TranscriptionOptions, model: Model) -> int:
    """Returns what a request can count at most, by its length or by its tokens."""
    tokens = math.ceil(duration_s) * _TOKENS_PER_S + options.ByteSize()
    return max(duration_messages(duration_s, model), messages_for_tokens(tokens))


def invalid_sound() -> InvalidRequest:
    """Returns the error for a file that is no sound that anybody reads."""
    return InvalidRequest(
        "Invalid file format. Supported formats: ['flac', 'm4a', 'mp3', 'mp4', 'mpeg', 'mpga', 'oga', 'ogg', 'wav', "
        "'webm']",
        param="file",
        code="invalid_value",
    )


def _check_value(param: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        names = ", ".join(f"'{name}'" for name in allowed)
        text = f"Invalid value: '{value[:100]}'. Supported values are: {names}."
        raise InvalidRequest(text, param=param, code="invalid_value")
