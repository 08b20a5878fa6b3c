"""`POST /audio/transcriptions`: take the form, ask the core, render; as JSON, as text or as server-sent events.

The upload is taken to its end before the core is asked, because its fields may come after the file.
"""

from collections.abc import AsyncIterator
from typing import Final, TypeVar

from aiohttp import web

from quillgate.v1.completion_service_pb2 import (
    CreateTranscriptionRequest,
    StreamTranscriptionRequest,
    StreamTranscriptionResponse,
)
from quillgate.v1.transcription_pb2 import FormField, TranscriptionOptions
from quillgate_codec import transcription, transcription_event
from quillgate_facade.answers import JSON_HEADERS
from quillgate_facade.config import FacadeConfig
from quillgate_facade.core_client import CoreClient
from quillgate_facade.credential import credential_of
from quillgate_facade.drain import Drain
from quillgate_facade.errors import ApiError
from quillgate_facade.relay import Relay, Wire, receipt_headers
from quillgate_facade.sse import data_frames
from quillgate_facade.upload import Form, received_form

TEXT_HEADERS: Final = {"content-type": "text/plain; charset=utf-8"}

_TEXTS: Final = ("model", "language", "prompt", "response_format")
_LISTS: Final = {
    "timestamp_granularities[]": "timestamp_granularities",
    "timestamp_granularities": "timestamp_granularities",
    "include[]": "include",
    "include": "include",
}
_FLAGS: Final = {"true": True, "false": False, "1": True, "0": False, "": False}

_RequestT = TypeVar("_RequestT", CreateTranscriptionRequest, StreamTranscriptionRequest)


class TranscriptionsHandler:
    """Answers transcriptions."""

    def __init__(self, core: CoreClient, config: FacadeConfig, drain: Drain) -> None:
        self._completions = core.completions
        self._config = config
        self._relay = Relay(config, drain)

    async def create(self, request: web.Request) -> web.StreamResponse:
        """Answers one request; the form's `stream` and `response_format` decide how."""
        credential = credential_of(request.headers)
        async with received_form(request, self._config) as form:
            options, stream = read_options(form)
            if stream:
                return await self._relay.stream(
                    request,
                    self._completions.StreamTranscription,
                    _messages(StreamTranscriptionRequest, options, form),
                    Wire(_frames, end=b""),
                    credential=credential,
                )
            answer = await self._relay.answer(
                request,
                self._completions.CreateTranscription,
                _messages(CreateTranscriptionRequest, options, form),
                credential=credential,
            )
        charge = receipt_headers(answer.receipt, answer.upstream)
        if answer.WhichOneof("value") == "text":
            return web.Response(body=answer.text.encode(), headers={**TEXT_HEADERS, **charge})
        return web.Response(body=transcription.to_json(answer.transcription), headers={**JSON_HEADERS, **charge})


def read_options(form: Form) -> tuple[TranscriptionOptions, bool]:
    """Returns what the form asks for, and whether as a stream; raises ApiError 400."""
    if form.filename is None:
        raise _missing("file")
    options = TranscriptionOptions(filename=form.filename, content_type=form.content_type)
    stream = False
    for name, value in form.fields:
        if name in _TEXTS:
            setattr(options, name, value)
        elif name in _LISTS:
            getattr(options, _LISTS[name]).append(value)
        elif name == "temperature":
            options.temperature = _number(name, value)
        elif name == "stream":
            stream = _flag(name, value)
        else:
            options.extra_fields.append(FormField(name=name, value=value))
    if not options.model:
        raise _missing("model")
    return options, stream


async def _messages(make: type[_RequestT], options: TranscriptionOptions, form: Form) -> AsyncIterator[_RequestT]:
    yield make(options=options)
    async for piece in form.pieces():
        yield make(audio=piece)


def _frames(message: StreamTranscriptionResponse) -> bytearray:
    return data_frames(transcription_event, message.events, with_usage=False)


def _missing(param: str) -> ApiError:
    message = f"you must provide a {param} parameter"
    return ApiError(400, message, param=param, code="missing_required_parameter")


def _number(name: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        message = f"Invalid type for '{name}': expected a decimal number, but got a string instead."
        raise ApiError(400, message, param=name, code="invalid_type") from None


def _flag(name: str, value: str) -> bool:
    flag = _FLAGS.get(value.strip().lower())
    if flag is None:
        message = f"Invalid type for '{name}': expected a boolean, but got a string instead."
        raise ApiError(400, message, param=name, code="invalid_type")
    return flag
