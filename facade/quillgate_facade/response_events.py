"""A streamed response as server-sent events, and its last words when the core broke off without any.

Each event is `event: <type>` and `data: <json>`; there is no `[DONE]`. Knows no HTTP.
"""

import time
from collections.abc import Iterable
from typing import Final

import msgspec

from quillgate.v1.completion_service_pb2 import StreamResponseResponse
from quillgate.v1.response_pb2 import Response, ResponseError, ResponseEvent
from quillgate_codec import response_event
from quillgate_facade.errors import ApiError

IGNORED_HEADER = "x-quillgate-ignored"

_MAX_IGNORED_BYTES: Final = 4_096
_ENDS: Final = frozenset({"response.completed", "response.incomplete", "response.failed"})

_encoder = msgspec.json.Encoder()


class ResponseEvents:
    """The events of one stream; remembers what its end needs, should the core not end it."""

    def __init__(self, *, model: str) -> None:
        self._response = Response(object="response", created_at=int(time.time()), model=model)
        self._next_number = 0
        self._has_error = False
        self._has_ended = False

    def frames(self, message: StreamResponseResponse) -> bytearray:
        """Returns the message's events, joined; what cannot be written is not remembered either."""
        frames = bytearray()
        for event in message.events:
            _add_frame(frames, event)
        for event in message.events:
            self._note(event)
        return frames

    def failure(self, error: ApiError) -> bytes:
        """Returns the events `error` and `response.failed`, as far as the core has not sent them itself.

        The error is both nested, as OpenAI sends it, and flat, as its schema says: either alone is lost on some client.
        """
        frames = bytearray()
        if self._has_ended:
            return b""
        code = error.code or error.kind
        if not self._has_error:
            _add_frame(frames, self._error_event(error, code))
        failed = Response()
        failed.CopyFrom(self._response)
        failed.status = "failed"
        failed.error.CopyFrom(ResponseError(code=code, message=error.message))
        _add_frame(frames, ResponseEvent(type="response.failed", sequence_number=self._number(), response=failed))
        return bytes(frames)

    def _note(self, event: ResponseEvent) -> None:
        self._next_number = event.sequence_number + 1
        self._has_error = self._has_error or event.type == "error"
        self._has_ended = self._has_ended or event.type in _ENDS
        if event.HasField("response"):
            self._response = event.response

    def _error_event(self, error: ApiError, code: str) -> ResponseEvent:
        nested = {"type": error.kind, "code": code, "message": error.message, "param": error.param}
        value = {"sequence_number": self._number(), "error": nested, **nested, "type": "error"}
        return response_event.from_value(value)

    def _number(self) -> int:
        self._next_number += 1
        return self._next_number - 1


def _add_frame(frames: bytearray, event: ResponseEvent) -> None:
    value = response_event.to_value(event)
    if event.type.isascii() and event.type.isprintable():  # a provider's own kinds must not begin lines of their own
        frames += b"event: " + event.type.encode() + b"\n"
    frames += b"data: "
    _encoder.encode_into(value, frames, -1)
    frames += b"\n\n"


def ignored_header(ignored: Iterable[str]) -> dict[str, str]:
    """Returns what of the request was ignored, as one header of visible ASCII of at most 4 KiB; none for nothing.

    Names that no longer fit are left out, and `...` says so.
    """
    shown: list[str] = []
    size = 0
    for name in map(_visible, ignored):
        size += len(name) + 2
        if size > _MAX_IGNORED_BYTES - len("..."):
            shown.append("...")
            break
        shown.append(name)
    return {IGNORED_HEADER: ", ".join(shown)} if shown else {}


def _visible(name: str) -> str:
    return "".join(character if "!" <= character <= "~" and character != "," else "?" for character in name)
