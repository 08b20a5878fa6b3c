"""Limits of connections and heads, what is no HTTP at all, and how the facade stops."""

import asyncio
import json
from typing import Any

import pytest
from aiohttp import ClientConnectionError
from fakes.facade_site import KEY, StartFacade, client_of, config
from fakes.fake_core import FakeCore, chunk, first, last

from quillgate_facade.app import FacadeServer

CHAT = "/v1/chat/completions"
BODY: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
STREAM = {**BODY, "stream": True}


async def raw(facade: FacadeServer, data: bytes) -> tuple[bytes, bytes]:
    """Sends bytes as they are and returns the head and body of all that comes until the facade closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", facade.port)
    writer.write(data)
    answer = await asyncio.wait_for(reader.read(), 20)
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return head, body


def head_of(size: int) -> bytes:
    """A request whose header names and values have `size` bytes together."""
    known = len("hostxconnectionclosex-")
    return b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-: " + b"y" * (size - known) + b"\r\n\r\n"


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nbad header\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\ncontent-length: many\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n",
    ],
    ids=range(7),
)
async def test_what_is_no_http(facade: FacadeServer, data: bytes) -> None:
    """What the parser refuses is answered in JSON, with a request id, and the connection is closed."""
    head, body = await raw(facade, data)
    assert head.startswith((b"HTTP/1.0 400 ", b"HTTP/1.1 400 "))
    assert b"x-request-id: req_" in head
    assert json.loads(body)["error"] == {
        "message": "The request could not be parsed as HTTP/1.1.",
        "type": "invalid_request_error",
        "param": None,
        "code": None,
    }


@pytest.mark.parametrize("size", [16383, 16384])
async def test_heads_up_to_the_limit(facade: FacadeServer, size: int) -> None:
    """16 KiB of headers are taken."""
    head, _ = await raw(facade, head_of(size))
    assert head.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("data", [head_of(16385), head_of(40000), b"GET /" + b"x" * 20000 + b" HTTP/1.1\r\n\r\n"])
async def test_too_large_a_head(facade: FacadeServer, data: bytes) -> None:
    """A byte more, a far longer header or a long request line is 431 in JSON."""
    head, body = await raw(facade, data)
    assert b" 431 " in head.splitlines()[0]
    assert json.loads(body)["error"]["type"] == "invalid_request_error"


async def test_a_head_that_does_not_end(start: StartFacade) -> None:
    """A connection whose head does not arrive in time is closed, on a fresh connection and on a used one."""
    facade = await start(config(head_timeout_s=0.2))
    assert await raw(facade, b"GET /healthz HTTP/1.1\r\nhost:") == (b"", b"")
    assert await raw(facade, b"") == (b"", b"")
    reader, writer = await asyncio.open_connection("127.0.0.1", facade.port)
    writer.write(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
    await reader.readuntil(b'{"status":"ok"}')
    await asyncio.sleep(0.5)
    writer.write(b"GET /hea")
    assert await asyncio.wait_for(reader.read(), 10) == b""
    writer.close()


async def test_an_idle_connection_is_kept_and_then_closed(start: StartFacade) -> None:
    """A connection may wait for its next request longer than for a head, but not for ever."""
    facade = await start(config(head_timeout_s=0.1, idle_timeout_s=0.6))
    reader, writer = await asyncio.open_connection("127.0.0.1", facade.port)
    for _ in range(2):
        writer.write(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        await reader.readuntil(b'{"status":"ok"}')
        await asyncio.sleep(0.3)
    assert await asyncio.wait_for(reader.read(), 10) == b""
    writer.close()


async def test_too_many_connections(start: StartFacade) -> None:
    """A connection over the limit is told 503 and closed; one that ends makes room."""
    facade = await start(config(max_connections=2))
    taken = [await asyncio.open_connection("127.0.0.1", facade.port) for _ in range(2)]
    await asyncio.sleep(0.05)
    head, body = await raw(facade, b"")
    assert head.startswith(b"HTTP/1.1 503 ")
    assert b"retry-after: 1" in head
    assert b"x-request-id: req_" in head
    assert json.loads(body)["error"]["type"] == "server_error"
    for _, writer in taken:
        writer.close()
        await writer.wait_closed()
    await asyncio.sleep(0.05)
    async with client_of(facade) as http, http.get("/healthz") as answer:
        assert answer.status == 200


async def test_pipelined_requests(facade: FacadeServer) -> None:
    """Requests that are sent together are answered one after the other."""
    one = b"GET /healthz HTTP/1.1\r\nhost: x\r\n"
    head, body = await raw(facade, one + b"\r\n" + one + b"connection: close\r\n\r\n")
    assert (head + body).count(b"HTTP/1.1 200 OK") == 2


async def test_http_1_0_stream(core: FakeCore, facade: FacadeServer) -> None:
    """A client of HTTP/1.0 gets its stream unchunked, ended by the close."""
    core.script.steps = [first(chunk("Hel")), last(chunk(finish="stop"))]
    body = json.dumps(STREAM).encode()
    request = f"POST {CHAT} HTTP/1.0\r\nauthorization: Bearer {KEY}\r\ncontent-length: {len(body)}\r\n\r\n"
    _, answer = await raw(facade, request.encode() + body)
    assert answer.endswith(b"\n\ndata: [DONE]\n\n")


async def test_a_stop_lets_running_requests_finish(core: FakeCore, start: StartFacade) -> None:
    """A stop waits for a stream that is under way, answers it whole and takes nothing new."""
    facade = await start(config(drain_timeout_s=20))
    core.script.steps = [first(chunk("Hel")), 0.3, last(chunk(finish="stop"))]
    async with client_of(facade) as http:
        async with http.post(CHAT, json=STREAM) as answer:
            await answer.content.readany()
            stopping = asyncio.ensure_future(facade.stop())
            await asyncio.sleep(0.1)
            with pytest.raises(ClientConnectionError):
                await http.get("/healthz")
            assert (await answer.content.read()).endswith(b"data: [DONE]\n\n")
        await asyncio.wait_for(stopping, 10)


async def test_a_stop_answers_whole_requests_and_closes(core: FakeCore, start: StartFacade) -> None:
    """A whole answer that is made during a stop says that the connection ends."""
    facade = await start(config(drain_timeout_s=20))
    core.script.delay_s = 0.3
    async with client_of(facade) as http:
        pending = asyncio.ensure_future(http.post(CHAT, json=BODY))
        await core.started.wait()
        await facade.stop()
        answer = await pending
        assert answer.status == 200
        assert answer.headers["connection"] == "close"


async def test_readiness_ends_with_the_stop(core: FakeCore, start: StartFacade) -> None:
    """A probe on a connection that is still open hears 503 from the first moment of a stop."""
    facade = await start(config(drain_timeout_s=20))
    core.script.delay_s = 0.5
    async with client_of(facade) as http, client_of(facade) as other:
        async with http.get("/readyz") as answer:
            assert answer.status == 200
        pending = asyncio.ensure_future(other.post(CHAT, json=BODY))
        await core.started.wait()
        stopping = asyncio.ensure_future(facade.stop())
        await asyncio.sleep(0.05)
        async with http.get("/readyz") as answer:
            assert answer.status == 503
        await stopping
        assert (await pending).status == 200


async def test_a_stop_tells_streams_that_do_not_finish(core: FakeCore, start: StartFacade) -> None:
    """A stream that outlives the drain ends with an error frame, and its call is cancelled."""
    facade = await start(config(drain_timeout_s=0.1))
    core.script.steps = [first(chunk("Hel")), 60.0]
    async with client_of(facade) as http, http.post(CHAT, json=STREAM) as answer:
        await answer.content.readany()
        await asyncio.wait_for(facade.stop(), 10)
        text = (await answer.content.read()).decode()
    assert json.loads(text.removeprefix("data: "))["error"]["message"] == "The server is stopping. Please try again."
    await asyncio.wait_for(core.cancelled.wait(), 5)


async def test_a_stop_tells_requests_that_have_no_answer_yet(core: FakeCore, start: StartFacade) -> None:
    """A request that outlives the drain before its first byte gets 503 and may be sent again."""
    facade = await start(config(drain_timeout_s=0.1))
    core.script.hang = True
    async with client_of(facade) as http:
        pending = asyncio.ensure_future(http.post(CHAT, json=BODY))
        await core.started.wait()
        await asyncio.wait_for(facade.stop(), 10)
        answer = await pending
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    await asyncio.wait_for(core.cancelled.wait(), 5)
