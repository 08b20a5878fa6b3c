"""Answers as they come from a socket: however they are cut, whatever is wrong with them.

Each test runs on both event loops, since an answer takes the place of another protocol on the loop's transport.
"""

import asyncio
import gzip
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from fakes.small_internet import PROVIDER, FakeResolver, make_certificates

from quillgate_core.providers.http_answer import HIGH_WATER_BYTES, HttpAnswer, NotHttp
from quillgate_core.providers.http_pool import HttpPool
from quillgate_core.providers.http_post import CompressedAnswer, PostAddress

SIZED = b"HTTP/1.1 200 OK\r\ncontent-type: text/Plain\r\ncontent-length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
UNSIZED = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
NEXT = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nnext"
pytestmark = pytest.mark.both_loops
LIMITS = aiohttp.ClientTimeout(total=None, sock_connect=5)


@dataclass
class Server:
    """Answers each request with the next script; a connection ends when its script does or the next one is a close."""

    scripts: Iterator[Sequence[bytes | None]]
    connections: int = 0
    lost: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Writes each piece by itself; None closes the connection."""
        self.connections += 1
        try:
            while await self._request(reader):
                for piece in next(self.scripts):
                    if piece is None:
                        return
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0.002)
        except ConnectionError:
            pass
        finally:
            self.lost.set()
            writer.close()

    async def _request(self, reader: asyncio.StreamReader) -> bool:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return False
        await reader.readexactly(int(head.lower().partition(b"content-length:")[2].split()[0]))
        return True


@dataclass
class Desk:
    """Posts to a server."""

    server: Server
    address: PostAddress
    connector: aiohttp.BaseConnector

    async def post(self, body: bytes = b"{}") -> HttpAnswer | CompressedAnswer:
        """Sends a request."""
        async with asyncio.timeout(10):
            return await self.address.post(self.connector, body, LIMITS)

    async def whole(self) -> tuple[int, bytes]:
        """Sends a request and reads the answer to its end."""
        answer = await self.post()
        return answer.status, await body_of(answer)


async def body_of(answer: HttpAnswer | CompressedAnswer) -> bytes:
    """Reads the rest of a body."""
    pieces = []
    try:
        async with asyncio.timeout(10):
            while data := await answer.content.readany():
                pieces.append(data)
    finally:
        answer.close()
    return b"".join(pieces)


@asynccontextmanager
async def desk(
    *scripts: Sequence[bytes | None],
    certificates: tuple[ssl.SSLContext, ssl.SSLContext] | None = None,
    handler: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]] | None = None,
) -> AsyncIterator[Desk]:
    """Starts a server with a script for each request, over TLS if it is given certificates."""
    server = Server(iter(scripts))
    theirs, ours = certificates or (None, None)
    serving: list[tuple[asyncio.Task[None], asyncio.StreamWriter]] = []

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.append((asyncio.ensure_future((handler or server.serve)(reader, writer)), writer))

    listener = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=theirs)
    pool = HttpPool(resolver=lambda: FakeResolver({PROVIDER: [["127.0.0.1"]]}), certificates=ours)
    connector = pool.session(is_trusted=True).connector
    assert connector is not None
    url = f"{'https' if theirs else 'http'}://{PROVIDER}:{listener.sockets[0].getsockname()[1]}/v1"
    try:
        yield Desk(server, PostAddress(url, {"x-test": "1"}, asyncio.get_running_loop()), connector)
    finally:
        await pool.close()
        listener.close()
        for task, writer in serving:
            task.cancel()
            writer.transport.abort()
        await asyncio.gather(*(task for task, _ in serving), return_exceptions=True)


WHOLE = {
    "sized": (SIZED, b"hello"),
    "chunked": (CHUNKED + b"3\r\nhel\r\n2;ext=1\r\nlo\r\n0\r\nx-trailer: 1\r\n\r\n", b"hello"),
    "empty": (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", b""),
    "empty chunked": (CHUNKED + b"0\r\n\r\n", b""),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    "after interim answers": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 E\r\ncontent-encoding: x\r\n\r\n" + SIZED,
        b"hello",
    ),
    "no reason, bare line feeds": (b"HTTP/1.1 200\ncontent-length: 5\n\nhello", b"hello"),
    "spaces after a chunk's size": (CHUNKED + b"5 \r\nhello\r\n0\r\n\r\n", b"hello"),
    "an empty header": (b"HTTP/1.1 200 OK\r\nx:\r\ncontent-length: 5\r\n\r\nhello", b"hello"),
    "encoded as it is": (b"HTTP/1.1 200 OK\r\ncontent-encoding: Identity\r\ncontent-length: 5\r\n\r\nhello", b"hello"),
}


@pytest.mark.parametrize("size", [1, 7, 1_000])
@pytest.mark.parametrize("kind", WHOLE)
async def test_an_answer_is_the_same_however_it_is_cut(kind: str, size: int) -> None:
    """Its body comes whole, and the next answer comes on the same connection."""
    data, body = WHOLE[kind]
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    async with desk(pieces, [NEXT]) as site:
        assert await site.whole() == (204 if "204" in data.decode() else 200, body)
        assert await site.whole() == (200, b"next")
        assert site.server.connections == 1


async def test_headers_are_kept_as_they_came_first() -> None:
    """Of the ones that are used; names in any case, and none of a trailer."""
    head = b"HTTP/1.1 429 No\r\nRetry-After: 7\r\nretry-after: 9\r\nContent-Type: a/B\r\n"
    head += b"Transfer-Encoding: chunked\r\n\r\n"
    async with desk([head + b"0\r\nContent-Type: x\r\n\r\n"]) as site:
        answer = await site.post()
        assert await body_of(answer) == b""
        assert (answer.status, dict(answer.headers)) == (429, {"retry-after": "7", "content-type": "a/B"})


@pytest.mark.parametrize("interim", [b"", b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"])
@pytest.mark.parametrize("size", [1, 1_000])
async def test_a_compressed_answer_is_unpacked(size: int, interim: bytes) -> None:
    """Though nobody asked for it; it costs its connection."""
    packed = gzip.compress(b"hello" * 1_000)
    data = interim + b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n%b" % (
        len(packed),
        packed,
    )
    async with desk([data[start : start + size] for start in range(0, len(data), size)], [NEXT]) as site:
        assert await site.whole() == (200, b"hello" * 1_000)
        assert await site.whole() == (200, b"next")
        assert site.server.connections == 2


LAST = {
    "told before": SIZED.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"),
    "HTTP/1.0": SIZED.replace(b"1.1", b"1.0"),
    "more than was told": SIZED + b"!",
    "two answers": SIZED + NEXT.replace(b"next", b"evil"),
}


@pytest.mark.parametrize("kind", LAST)
async def test_a_connection_that_cannot_be_used_again_is_closed(kind: str) -> None:
    """What follows the end of an answer is never taken for the next one."""
    async with desk([LAST[kind]], [NEXT]) as site:
        assert await site.whole() == (200, b"hello")
        assert await site.whole() == (200, b"next")
        assert site.server.connections == 2


async def test_what_comes_while_nobody_asks_is_no_answer() -> None:
    """Servers say 408 before they close a connection that rests; the next request takes another."""
    async with desk([SIZED, b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n"], [NEXT]) as site:
        assert await site.whole() == (200, b"hello")
        await asyncio.sleep(0.1)
        assert await site.whole() == (200, b"next")
        assert site.server.connections == 2


async def test_a_body_without_length_ends_with_its_connection() -> None:
    """As old servers stream."""
    async with desk([UNSIZED, b"a", b"b", None], [NEXT]) as site:
        assert await site.whole() == (200, b"ab")
        assert await site.whole() == (200, b"next")


CUT = {
    "in its length": [SIZED[:-2], None],
    "in a chunk": [CHUNKED + b"5\r\nhel", None],
    "between chunks": [CHUNKED + b"3\r\nhel\r\n", None],
    "by what is no chunk": [CHUNKED + b"3\r\nhel\r\n", b"zzz\r\n"],
    "by a chunk without its end": [CHUNKED + b"3\r\nhel", b"lo\r\n"],
}


@pytest.mark.parametrize("kind", CUT)
async def test_what_came_before_a_break_is_read_first(kind: str) -> None:
    """Then the break is an error, at each read anew."""
    async with desk(CUT[kind]) as site:
        answer = await site.post()
        await asyncio.sleep(0.1)
        assert await answer.content.readany() == b"hel"
        for _ in range(2):
            with pytest.raises(aiohttp.ClientError):
                await answer.content.readany()
        assert not answer.content.at_eof()
        async with asyncio.timeout(5):
            await site.server.lost.wait()


@pytest.mark.parametrize("end", [b"", b"HTTP/1.1 2", SIZED[:40]])
async def test_a_close_before_the_head_is_an_error_of_the_connection(end: bytes) -> None:
    """It is one that the caller can tell from an answer that is no HTTP."""
    async with desk([end, None]) as site:
        with pytest.raises(aiohttp.ClientConnectionError):
            await site.post()


@pytest.mark.parametrize("data", [b"<html>", b"HTTP/9.9 200 OK\r\n\r\n", b"SSH-2.0-x\r\n", b"HTTP/1.1 ok\r\n\r\n"])
async def test_what_is_no_http_is_told(data: bytes) -> None:
    """The connection is closed at once."""
    async with desk([data]) as site:
        with pytest.raises(NotHttp):
            await site.post()
        async with asyncio.timeout(5):
            await site.server.lost.wait()


async def test_a_server_that_speaks_before_it_is_asked_is_not_asked_for_ever() -> None:
    """Some connections are tried, since one that rested may have told of its end; then it is no HTTP."""
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        writer.write(b"SSH-2.0-x\r\n")
        await reader.read()

    async with desk(handler=serve) as site:
        with pytest.raises(NotHttp):
            await site.post()
        assert connections <= 8


async def test_a_large_body_is_read_before_the_break_after_it() -> None:
    """Though nobody had begun to read when it came."""
    body = b"x" * (2 * HIGH_WATER_BYTES - 100)
    async with desk([CHUNKED + b"%x\r\n%b\r\nzzz\r\n" % (len(body), body)]) as site:
        answer = await site.post()
        await asyncio.sleep(0.1)
        read = 0
        with pytest.raises(aiohttp.ClientError):
            while data := await answer.content.readany():
                read += len(data)
        assert read == len(body)
        answer.close()


async def test_an_upgrade_is_an_answer_without_body() -> None:
    """Nobody asked for one."""
    head = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nxyz"
    async with desk([head], [NEXT]) as site:
        assert await site.whole() == (101, b"")
        assert await site.whole() == (200, b"next")
        assert site.server.connections == 2


async def test_cancelling_the_wait_for_the_head_closes_the_connection() -> None:
    """The server learns that nobody waits any more."""
    async with desk([]) as site:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await site.address.post(site.connector, b"{}", LIMITS)
        async with asyncio.timeout(5):
            await site.server.lost.wait()


async def test_a_reader_that_waits_can_be_given_an_error() -> None:
    """That is how a stalled answer ends."""
    async with desk([CHUNKED + b"1\r\na\r\n"]) as site:
        answer = await site.post()
        assert await answer.content.readany() == b"a"
        asyncio.get_running_loop().call_later(0.05, answer.content.set_exception, TimeoutError("stalled"))
        with pytest.raises(TimeoutError, match="stalled"):
            await answer.content.readany()
        answer.close()


async def test_a_connection_is_not_read_while_nobody_reads_the_answer() -> None:
    """Little of a large answer is held, and nothing of it is lost."""
    size = 64 * HIGH_WATER_BYTES
    sent = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"{}")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
        while sent < size:
            writer.write(b"x" * 65_536)
            sent += 65_536
            await writer.drain()
        await reader.read()
        writer.close()

    async with desk(handler=serve) as site:
        answer = await site.post()
        await asyncio.sleep(0.3)
        assert sent < size  # the rest does not fit between the two
        read = 0
        while data := await answer.content.readany():
            assert len(data) <= 2 * HIGH_WATER_BYTES
            read += len(data)
        assert read == size


async def test_an_answer_before_the_end_of_the_request_costs_the_connection() -> None:
    """The rest of the request would be taken for the next one; it is not sent any more, however long that took."""
    size = 64_000_000
    received: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(SIZED)
        await asyncio.sleep(0.2)
        total = 0
        with suppress(ConnectionError):
            while data := await reader.read(1_000_000):
                total += len(data)
        received.append(total)
        writer.close()

    async with desk(handler=serve) as site:
        for number in (1, 2):
            answer = await site.post(b"x" * size)
            assert await body_of(answer) == b"hello"
            async with asyncio.timeout(10):
                while len(received) < number:
                    await asyncio.sleep(0.01)
        assert max(received) < size


async def test_tls_is_no_different(tmp_path: Path) -> None:
    """A stream in pieces, a kept connection, and a compressed answer on it."""
    packed = gzip.compress(b"packed")
    compressed = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n%b" % (len(packed), packed)
    stream = [CHUNKED, b"1\r\na\r\n", b"1\r\nb\r\n0\r\n\r\n"]
    async with desk(stream, [NEXT], [compressed], certificates=make_certificates(tmp_path)) as site:
        assert await site.whole() == (200, b"ab")
        assert await site.whole() == (200, b"next")
        assert await site.whole() == (200, b"packed")
        assert site.server.connections == 1
