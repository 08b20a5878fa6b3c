"""Calls of one provider that answer with a body or with server-sent events: what the protocols over HTTP share.

Each protocol says how an event is decoded. Here it is decided what a bad status, a web page, a cut, a line without end
and the end of a stream do to the answer and to the connection. It must not know what a body means, nor log one.
"""

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

from yarl import URL

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
        return await self._whole(await self._http.post(url, body))

    async def get(self, url: str) -> bytes:
        """Returns the whole body of what is at the address."""
        return await self._whole(await self._http.get(url))

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
        response = await self._good(await self._http.post(url, body))
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
        await self._good(response)
        try:
            return await response.read_all()
        finally:
            response.close()

    async def _good(self, response: ProviderResponse) -> ProviderResponse:
        """Returns a response with a good status; raises for every other one."""
        if 200 <= response.status < 300:
            return response
        try:
            raise self._errors.for_status(
                response.status,
                await response.read_refusal(),
                content_type=response.content_type,
                retry_after=response.retry_after,
            )
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


def checked_base_url(base_url: str) -> str:
    """Returns the address that paths are appended to; raises ValueError for one that cannot work or has credentials."""
    url = URL(base_url)
    if url.scheme not in ("http", "https") or not url.host or url.user or url.password or url.query or url.fragment:
        raise ValueError("a provider's base URL must be http(s) with a host, without credentials, query or fragment")
    return base_url.rstrip("/")
