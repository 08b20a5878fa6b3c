"""Calls of one provider that answer with a body or with server-sent events: what the protocols over HTTP share.

Each protocol says how an event is decoded. Here it is decided what a bad status, a web page, a cut, a line without end
and the end of a stream do to the answer and to the connection. It must not know what a body means, nor log one.
"""

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

from quillgate_codec import JsonError
from quillgate_core.errors import QuillgateError
from quillgate_core.providers.provider_error import ProviderErrors
from quillgate_core.providers.provider_http import ProviderHttp, ProviderResponse
from quillgate_core.providers.provider_limits import ProviderLimits
from quillgate_core.providers.sse import SseLimitError, SseParser

PieceT = TypeVar("PieceT")

Decode: TypeAlias = Callable[[bytes, list[PieceT]], bool]
"""Adds the pieces of one event's data to the list, and tells whether it was the last event.

Raises JsonError for data that cannot be read, or the error that the event stands for.
"""


@dataclass(slots=True)
class _Batch(Generic[PieceT]):
    """What one read of a stream held: pieces, then perhaps the end, good or bad."""

    pieces: list[PieceT]
    done: bool = False
    failure: QuillgateError | None = None


class ProviderCalls:
    """Sends bodies to one provider and reads what comes back; raises as ChatProvider says."""

    def __init__(self, http: ProviderHttp, errors: ProviderErrors, limits: ProviderLimits) -> None:
        self._http = http
        self._errors = errors
        self._limits = limits

    async def post(self, url: str, body: bytes) -> bytes:
        """Returns the whole body of a good answer."""
        return await self._whole(await self._http.ask(url, body, whole=True))

    async def get(self, url: str) -> bytes:
        """Returns the whole body of what is at the address."""
        return await self._whole(await self._http.ask(url))

    async def stream(
        self,
        url: str,
        body: bytes,
        *,
        decode: Decode[PieceT],
        whole: Callable[[bytes], list[PieceT]],
        closed: Callable[[bytes], list[PieceT]] = lambda stray: [],
    ) -> AsyncGenerator[list[PieceT], None]:
        """Yields the pieces of each read together, never none; `whole` reads the answer of a server that cannot stream.

        It ends when `decode` says so or the provider closes. Then `closed` tells what that means: it is given what the
        stream held besides events, and raises or returns the last pieces. Closing it closes the connection.
        """
        response = await self._http.ask(url, body)
        done = False
        try:
            if response.content_type.startswith("application/json"):
                yield whole(await response.read_all())
                return
            if response.content_type.startswith("text/html"):
                raise self._errors.unavailable("answered with a web page")
            parser = SseParser(self._limits.sse_line_bytes, self._limits.sse_event_bytes)
            while not done:
                data = await response.read_some()
                batch = self._read_batch(parser, data, decode)
                if batch.pieces:
                    yield batch.pieces
                if batch.failure is not None:
                    raise batch.failure
                done = batch.done
                if not data:
                    last = closed(parser.stray)
                    if last and not done:
                        yield last
                    return
        finally:
            if done:
                self._http.finish(response)
            else:
                response.close()

    async def _whole(self, response: ProviderResponse) -> bytes:
        try:
            return await response.read_all()
        finally:
            response.close()

    def _read_batch(self, parser: SseParser, data: bytes, decode: Decode[PieceT]) -> _Batch[PieceT]:
        """Decodes what one read completes; no data is the end of the stream."""
        try:
            events = parser.feed(data) if data else parser.close()
        except SseLimitError as error:
            batch = self._decode(error.events, decode)
            if not batch.done:
                batch.failure = batch.failure or self._errors.unavailable("sent more at once than this gateway reads")
            return batch
        return self._decode(events, decode)

    def _decode(self, events: list[bytes], decode: Decode[PieceT]) -> _Batch[PieceT]:
        batch: _Batch[PieceT] = _Batch([])
        for data in events:
            try:
                batch.done = decode(data, batch.pieces)
            except JsonError:
                batch.failure = self._errors.unavailable("sent a chunk that cannot be read")
            except QuillgateError as error:
                batch.failure = error
            if batch.done or batch.failure is not None:
                break
        return batch
