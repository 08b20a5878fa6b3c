"""A server that never stops sending, in each part of an HTTP answer: little of it is ever held, and the call ends.

The limits are the real ones but for the times. The server writes whenever it can, until it is cut off.
"""

import asyncio
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from itertools import chain, repeat
from typing import Final

import pytest
from fakes.provider_site import REQUEST

from quillgate_core.errors import ProviderError
from quillgate_core.providers.http_pool import HttpPool
from quillgate_core.providers.openai_compatible import OpenAICompatible
from quillgate_core.providers.provider_limits import ProviderLimits
from quillgate_core.upstream import PreparedChat

MIB: Final = 1024 * 1024
MAX_HELD_BYTES: Final = 32 * MIB
LIMITS: Final = ProviderLimits(connect_s=5.0, first_byte_s=1.0, stall_s=1.0, total_s=1.5)

JSON_HEAD: Final = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
SSE_HEAD: Final = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
CHUNKED: Final = b"transfer-encoding: chunked\r\n\r\n"
CHUNK: Final = b'data: {"choices": [{"index": 0, "delta": {"content": "a"}}]}\n\n'
SPACES: Final = b" " * 65_536


def _zeros() -> Iterator[bytes]:
    """Compress spaces without end: a thousand bytes for each."""
    packer = zlib.compressobj(9, wbits=31)
    while True:
        yield packer.compress(b" " * MIB) + packer.flush(zlib.Z_SYNC_FLUSH)


ENDLESS: Final[dict[str, Callable[[], Iterator[bytes]]]] = {
    "status line": lambda: chain([b"HTTP/1.1 200 "], repeat(b"O" * 65_536)),
    "header value": lambda: chain([JSON_HEAD, b"x-long: "], repeat(b"x" * 65_536)),
    "header name": lambda: chain([JSON_HEAD], repeat(b"x" * 65_536)),
    "headers": lambda: chain([JSON_HEAD], repeat(b"x-more: value\r\n" * 4_096)),
    "interim answers": lambda: repeat(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" * 512),
    "body": lambda: chain([JSON_HEAD + b"\r\n{"], repeat(SPACES)),
    "sized body": lambda: chain([JSON_HEAD + b"content-length: 99999999999\r\n\r\n{"], repeat(SPACES)),
    "chunk size": lambda: chain([JSON_HEAD, CHUNKED], repeat(b"0" * 65_536)),
    "chunk extension": lambda: chain([JSON_HEAD, CHUNKED, b"1;"], repeat(b"x" * 65_536)),
    "chunks of one byte": lambda: chain([JSON_HEAD, CHUNKED], repeat(b"1\r\n \r\n" * 4_096)),
    "trailers": lambda: chain([JSON_HEAD, CHUNKED, b"2\r\n{}\r\n0\r\n"], repeat(b"x-more: value\r\n" * 4_096)),
    "compressed body": lambda: chain([JSON_HEAD, b"content-encoding: gzip\r\n\r\n"], _zeros()),
    "compressed stream": lambda: chain([SSE_HEAD[:-2], b"content-encoding: gzip\r\n\r\n"], _zeros()),
    "refusal": lambda: chain([JSON_HEAD.replace(b"200 OK", b"400 No"), b"\r\n{"], repeat(SPACES)),
    "line": lambda: chain([SSE_HEAD, b"data: "], repeat(SPACES)),
    "event": lambda: chain([SSE_HEAD], repeat(b"data: x\n" * 4_096)),
    "comments": lambda: chain([SSE_HEAD], repeat(b": comment\n\n" * 4_096)),
    "blank lines": lambda: chain([SSE_HEAD], repeat(b"\n" * 65_536)),
    "chunks": lambda: chain([SSE_HEAD], repeat(CHUNK * 512)),
    "list of events": lambda: chain([SSE_HEAD], repeat(b"event: a\nid: b\nretry: 1\n\n" * 1_024)),
}


@asynccontextmanager
async def endless_server(answer: Callable[[], Iterator[bytes]]) -> AsyncIterator[str]:
    """Serve the answer to whoever connects, and give the base URL."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.CancelledError):
            await reader.read(65_536)
            for piece in answer():
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    finally:
        server.close()


async def held_bytes(answer: Callable[[], Iterator[bytes]], *, stream: bool) -> int:
    """Ask the server once, and return the most memory that was held at one time meanwhile."""
    pool = HttpPool()
    async with endless_server(answer) as base_url:
        provider = OpenAICompatible(name="fake", base_url=base_url, pool=pool, limits=LIMITS)
        prepared = provider.prepare_chat(REQUEST, model="m", stream=stream, max_output_tokens=None)
        tracemalloc.start()
        try:
            async with asyncio.timeout(30):
                with pytest.raises(ProviderError):
                    await (_read(provider, prepared) if stream else provider.create_chat(prepared))
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
            await pool.close()


async def _read(provider: OpenAICompatible, prepared: PreparedChat) -> None:
    """Read a stream as a caller does that keeps nothing."""
    async for _ in provider.stream_chat(prepared):
        pass


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("part", ENDLESS)
async def test_an_endless_answer_costs_little_memory(part: str, stream: bool) -> None:
    """Whatever part has no end, less than 32 MiB are held, and the call ends with the provider's error."""
    assert await held_bytes(ENDLESS[part], stream=stream) < MAX_HELD_BYTES
