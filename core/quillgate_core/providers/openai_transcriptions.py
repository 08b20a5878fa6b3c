"""Any server that speaks OpenAI's `POST /audio/transcriptions`: OpenAI, Groq, and servers of Whisper models.

The upload goes out piece by piece from its file. Usage convention: tokens where the server reports them, else none. It
must not log: everything here is speech, a transcript or a key.
"""

from collections.abc import AsyncGenerator, Mapping
from typing import Any, Final

import aiohttp

from quillgate.v1.transcription_pb2 import Transcription, TranscriptionEvent
from quillgate_codec import JsonError, load_json, provider_transcription, provider_transcription_event
from quillgate_core.errors import QuillgateError
from quillgate_core.providers.addresses import addresses, sent_headers
from quillgate_core.providers.dialects import DIALECTS, UNKNOWN, Dialect
from quillgate_core.providers.http_pool import HttpPool
from quillgate_core.providers.provider_error import ProviderErrors
from quillgate_core.providers.provider_http import ProviderHttp, ProviderResponse
from quillgate_core.providers.provider_limits import ProviderLimits
from quillgate_core.providers.sse import SseLimitError, SseParser
from quillgate_core.secret import Secret
from quillgate_core.upstream import TranscriptionTask

SPEECH_LIMITS: Final = ProviderLimits(first_byte_s=600.0, stall_s=120.0)
"""A server that does not stream is silent until it has heard everything."""

_DONE: Final = b"[DONE]"


class OpenAITranscriptions:
    """A TranscriptionProvider over HTTP; everything as for OpenAICompatible."""

    def __init__(
        self,
        *,
        name: str,
        base_url: str,
        api_key: Secret | None = None,
        pool: HttpPool,
        is_trusted: bool = True,
        limits: ProviderLimits = SPEECH_LIMITS,
        extra_headers: Mapping[str, str] | None = None,
        dialect: Dialect | None = None,
        byok: bool = False,
    ) -> None:
        self._name = name
        dialect = dialect or DIALECTS.get(name, UNKNOWN)
        self._addresses = addresses(dialect, base_url, extra_headers or {})
        self._limits = limits
        self._errors = ProviderErrors(name, api_key, byok=byok)
        headers = sent_headers(dialect, api_key, extra_headers or {})
        del headers["content-type"]  # the form has its own, with its boundary
        self._http = ProviderHttp(headers, limits, self._errors, pool=pool, is_trusted=is_trusted)

    @property
    def name(self) -> str:
        """The provider's name in the catalogue, errors and ledger."""
        return self._name

    def check_transcription(self, task: TranscriptionTask) -> None:
        """Accepts everything: the server says what it dislikes."""

    async def create_transcription(self, task: TranscriptionTask) -> Transcription:
        """Sends the upload and returns the whole answer; raises as TranscriptionProvider says."""
        response = await self._open(task, stream=False)
        try:
            return self._whole(response, await response.read_all())
        finally:
            response.close()

    async def stream_transcription(self, task: TranscriptionTask) -> AsyncGenerator[list[TranscriptionEvent], None]:
        """Sends the upload and yields the events of each read together; raises as TranscriptionProvider says."""
        response = await self._open(task, stream=True)
        try:
            if not response.content_type.startswith("text/event-stream"):
                yield as_events(self._whole(response, await response.read_all()))
                return
            parser = SseParser(self._limits.sse_line_bytes, self._limits.sse_event_bytes)
            while data := await response.read_some():
                events, failure = self._read(parser, data)
                if events:
                    yield events
                if failure is not None:
                    raise failure
            events, failure = self._decode(parser.close())
            if events:
                yield events
            if failure is not None:
                raise failure
        finally:
            response.close()

    async def _open(self, task: TranscriptionTask, *, stream: bool) -> ProviderResponse:
        """Sends the upload and returns a response with a good status; raises for every other one."""
        with task.path.open("rb") as file:
            form = aiohttp.FormData(default_to_multipart=True)
            for name, value in form_fields(task, stream=stream):
                form.add_field(name, value)
            content_type = task.options.content_type or "application/octet-stream"
            form.add_field("file", file, filename=task.options.filename or "audio", content_type=content_type)
            return await self._http.ask(self._addresses.of("/audio/transcriptions", task.model), form)

    def _whole(self, response: ProviderResponse, body: bytes) -> Transcription:
        """Decodes a whole answer: JSON, or the bare text that some servers give whatever they are asked."""
        if response.content_type.startswith("text/plain"):
            try:
                return Transcription(text=body.decode().strip())
            except UnicodeDecodeError:
                raise self._errors.unavailable("sent an answer that cannot be read") from None
        try:
            value = self._object(body)
        except JsonError as error:
            raise self._errors.unavailable("sent an answer that cannot be read") from error
        if type(value.get("text")) is not str:
            raise self._errors.unavailable("sent an answer without text")
        return provider_transcription.from_value(value)

    def _object(self, data: bytes) -> dict[str, Any]:
        """Decodes one JSON object; raises the error that it stands for, or JsonError when it is no object."""
        value = load_json(data)
        if type(value) is not dict:
            raise JsonError("it must be a JSON object", code="invalid_type")
        failure = self._errors.for_value(value)
        if failure is not None:
            raise failure
        value.pop("error", None)
        return value

    def _read(self, parser: SseParser, data: bytes) -> tuple[list[TranscriptionEvent], QuillgateError | None]:
        try:
            return self._decode(parser.feed(data))
        except SseLimitError as error:
            events, failure = self._decode(error.events)
            return events, failure or self._errors.unavailable("sent more at once than this gateway reads")

    def _decode(self, received: list[bytes]) -> tuple[list[TranscriptionEvent], QuillgateError | None]:
        """Returns the events before the first that is none, and what that one means."""
        events: list[TranscriptionEvent] = []
        for data in received:
            if data.startswith(_DONE):
                break
            try:
                events.append(provider_transcription_event.from_value(self._object(data)))
            except JsonError:
                return events, self._errors.unavailable("sent an event that cannot be read")
            except QuillgateError as error:
                return events, error
        return events, None


def form_fields(task: TranscriptionTask, *, stream: bool) -> list[tuple[str, str]]:
    """Returns the form but its file, as OpenAI names the fields."""
    options = task.options
    fields = [("model", task.model)]
    fields += [
        (name, getattr(options, name)) for name in ("language", "prompt", "response_format") if options.HasField(name)
    ]
    if options.HasField("temperature"):
        fields.append(("temperature", f"{options.temperature:g}"))
    fields += [("timestamp_granularities[]", value) for value in options.timestamp_granularities]
    fields += [("include[]", value) for value in options.include]
    fields += [(field.name, field.value) for field in options.extra_fields]
    if stream:
        fields.append(("stream", "true"))
    return fields


def as_events(answer: Transcription) -> list[TranscriptionEvent]:
    """Returns a whole answer as the events of a stream that says the same."""
    done = TranscriptionEvent(type="transcript.text.done", text=answer.text)
    if answer.HasField("usage"):
        done.usage.CopyFrom(answer.usage)
    delta = TranscriptionEvent(type="transcript.text.delta", delta=answer.text)
    return [delta, done] if answer.text else [done]
