"""Server-sent events: how chunks become frames, and an answer that is written frame by frame.

One message of the core is one write, whatever the number of its chunks. Nothing here knows where chunks come from.
"""

import asyncio
from collections.abc import Iterable, Mapping
from typing import TypeVar

import msgspec
from aiohttp import web
from google.protobuf.message import Message

from quillgate_codec import Codec
from quillgate_facade.errors import ApiError

DONE = b"data: [DONE]\n\n"
COMMENT = b": keep-alive\n\n"

#: Proxies must neither keep, gather nor change what is streamed.
STREAM_HEADERS: Mapping[str, str] = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
}

MessageT = TypeVar("MessageT", bound=Message)

_encode_into = msgspec.json.Encoder().encode_into


def data_frames(codec: Codec[MessageT], pieces: Iterable[MessageT], *, with_usage: bool) -> bytearray:
    """Returns one `data:` frame for each piece, joined.

    `with_usage` gives every piece a member `usage`, null where there is none, as OpenAI does when the client asked for
    the usage; clients that did not ask must not see the member.
    """
    frames = bytearray()
    for piece in pieces:
        value = codec.to_value(piece)
        if with_usage:
            value.setdefault("usage", None)
        frames += b"data: "
        _encode_into(value, frames, -1)
        frames += b"\n\n"
    return frames


def written_frames(texts: Iterable[bytes]) -> bytes:
    """Returns one `data:` frame for each JSON text, joined; there must be at least one."""
    return b"data: " + b"\n\ndata: ".join(texts) + b"\n\n"


def error_frame(error: ApiError) -> bytes:
    """Returns the error as one `data:` frame."""
    return b"data: " + error.to_json() + b"\n\n"


class EventStream:
    """An answer of frames; while it is open, a comment goes out whenever it was silent for `comment_interval_s`.

    Comments keep proxies and clients from giving up on a model that thinks for long. One timer for each stream, set
    anew only when it fires, so that a chunk costs no timer at all.
    """

    def __init__(self, response: web.StreamResponse, *, comment_interval_s: float) -> None:
        self.response = response
        self._interval_s = comment_interval_s
        self._loop = asyncio.get_running_loop()
        self._written_s = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._comment: asyncio.Task[None] | None = None
        self._protocol: web.RequestHandler | None = None
        self._begun: web.RequestHandler | None = None

    async def open(self, request: web.Request) -> None:
        """Sends the head, once; from here on errors can only be told as a frame."""
        if self._protocol is not None:
            return
        self._protocol = request.protocol
        await self.response.prepare(request)
        self._timer = self._loop.call_later(self._interval_s, self._tick)

    async def write(self, frames: bytes | bytearray) -> None:
        """Sends the frames; waits while the client reads too slowly and raises ConnectionError when it has gone."""
        self._written_s = self._loop.time()
        protocol = self._begun
        if protocol is not None and not protocol.writing_paused:
            transport = protocol.transport
            if transport is not None and not transport.is_closing():
                # What aiohttp does with a chunk once the head is out, at a fifth of the steps.
                transport.write(b"%x\r\n%b\r\n" % (len(frames), bytes(frames)))
                return
        await self.response.write(frames)
        if self.response.headers.get("transfer-encoding") == "chunked":
            self._begun = self._protocol

    async def end(self, frames: bytes) -> None:
        """Sends the last frames and the end of the answer in one write."""
        self.stop()
        await self.response.write_eof(frames)

    async def fail(self, frames: bytes) -> None:
        """Sends what tells the client of a failure, without `[DONE]`, and closes the connection."""
        self.response.force_close()
        await self.end(frames)

    def stop(self) -> None:
        """Sends no comments any more. May be called at any time, more than once."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._comment is not None:
            self._comment.cancel()
            self._comment = None

    def _tick(self) -> None:
        silence_s = self._loop.time() - self._written_s
        if silence_s >= self._interval_s:
            silence_s = 0.0
            if self._protocol is not None and not self._protocol.writing_paused:
                self._comment = self._loop.create_task(self._write_comment())
        self._timer = self._loop.call_later(self._interval_s - silence_s, self._tick)

    async def _write_comment(self) -> None:
        try:
            await self.write(COMMENT)
        except ConnectionError:
            self.stop()
