"""What clients see of the door: a wait, or 503 on a connection that stays good; probes and what runs see none."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from itertools import count
from typing import Any

import grpc.aio
import pytest
from aiohttp import ClientResponse
from fakes.facade_site import KEY, client_of, config
from fakes.fake_core import FakeCore, chunk, first, last
from fakes.fake_door import FakeDoor

from quillgate_facade.app import FacadeServer, build_app, serve
from quillgate_facade.config import FacadeConfig
from quillgate_facade.door import Door

CHAT = "/v1/chat/completions"
BODY: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
STREAM = {**BODY, "stream": True}
REFUSED = {
    "message": "The server is at its capacity. Please retry shortly.",
    "type": "server_error",
    "param": None,
    "code": None,
}

StartBehind = Callable[[Door, FacadeConfig], Awaitable[FacadeServer]]


@pytest.fixture
async def start_behind(core: FakeCore) -> AsyncIterator[StartBehind]:
    """Starts facades behind a given door and stops them at the end."""
    async with AsyncExitStack() as stack:

        async def start(door: Door, settings: FacadeConfig) -> FacadeServer:
            channel = grpc.aio.insecure_channel(f"127.0.0.1:{core.port}")
            stack.push_async_callback(channel.close)
            server = await serve(build_app(channel, settings), door=door)
            stack.push_async_callback(server.stop)
            return server

        yield start


@pytest.fixture
async def door() -> FakeDoor:
    """A door that is open until a test says otherwise."""
    return FakeDoor()


@pytest.fixture
async def behind(start_behind: StartBehind, door: FakeDoor) -> FacadeServer:
    """A facade behind the door, with the default limits."""
    return await start_behind(door, config())


class Wire:
    """One connection that sends bytes as they are and reads one answer at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    @classmethod
    async def to(cls, facade: FacadeServer) -> "Wire":
        return cls(*await asyncio.open_connection("127.0.0.1", facade.port))

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self) -> tuple[int, dict[str, str], Any]:
        """Reads an answer that has a length: its status, its headers and its JSON."""
        async with asyncio.timeout(20):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode()
            lines = head.strip().splitlines()
            headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines[1:])}
            body = await self._reader.readexactly(int(headers["content-length"]))
        return int(lines[0].split()[1]), headers, json.loads(body)

    async def end(self) -> bytes:
        """Reads whatever comes until the facade closes."""
        return await asyncio.wait_for(self._reader.read(), 20)


def chat(body: dict[str, Any] = BODY, *, extra: str = "") -> bytes:
    """A request as most clients send it."""
    content = json.dumps(body).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n{extra}content-length: {len(content)}"
    return head.encode() + b"\r\n\r\n" + content


async def assert_refused(answer: tuple[int, dict[str, str], Any]) -> None:
    """Holds for every refusal, however it was made."""
    status, headers, body = answer
    assert (status, body) == (503, {"error": REFUSED})
    assert headers["retry-after"] in {"1", "2", "3"}
    assert headers["x-request-id"].startswith("req_")
    assert headers["content-type"] == "application/json"
    assert "connection" not in headers


async def test_a_refusal_keeps_the_connection(core: FakeCore, behind: FacadeServer, door: FakeDoor) -> None:
    """A request that is turned away gets 503, the core hears nothing of it, and the same connection is served later."""
    wire = await Wire.to(behind)
    door.shut()
    for _ in range(3):
        await wire.send(chat())
        await assert_refused(await wire.answer())
    assert not core.started.is_set()
    door.open()
    await wire.send(chat())
    assert (await wire.answer())[0] == 200
    wire.writer.close()


async def test_a_refusal_comes_before_the_body(behind: FacadeServer, door: FakeDoor) -> None:
    """A refusal does not wait for the body; what still comes of it is dropped, and the next request is a request."""
    wire = await Wire.to(behind)
    door.shut()
    request = chat({**BODY, "x": "y" * 300_000})
    await wire.send(request[:400])
    await assert_refused(await wire.answer())
    await wire.send(request[400:100_000])
    door.open()
    await wire.send(request[100_000:] + chat())
    assert (await wire.answer())[0] == 200
    wire.writer.close()


@pytest.mark.parametrize(
    "data",
    [
        b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n",
        chat(extra="origin: https://app.example\r\n"),
        chat(extra="transfer-encoding: chunked\r\n").replace(b"content-length", b"x-length").partition(b"{")[0]
        + b"2\r\n{}\r\n0\r\n\r\n",
    ],
    ids=["get", "browser", "chunked"],
)
async def test_unusual_requests_are_refused_alike(
    core: FakeCore, start_behind: StartBehind, door: FakeDoor, data: bytes
) -> None:
    """What only the parser understands is refused with the same answer, once, and keeps its connection too."""
    facade = await start_behind(door, FacadeConfig(port=0, cors_origins="https://app.example"))
    wire = await Wire.to(facade)
    door.shut()
    await wire.send(data)
    answer = await wire.answer()
    await assert_refused(answer)
    assert ("access-control-allow-origin" in answer[1]) == (b"origin: https" in data)
    door.open()
    await wire.send(chat())
    assert (await wire.answer())[0] == 200
    wire.writer.close()


async def test_a_head_in_two_pieces_is_refused(behind: FacadeServer, door: FakeDoor) -> None:
    """A request whose head has not arrived as a whole is refused when it has."""
    wire = await Wire.to(behind)
    door.shut()
    request = chat()
    await wire.send(request[:30])
    await asyncio.sleep(0.05)
    await wire.send(request[30:])
    await assert_refused(await wire.answer())
    await wire.send(chat())
    await assert_refused(await wire.answer())
    wire.writer.close()


async def test_a_client_reads_refusals(behind: FacadeServer, door: FakeDoor) -> None:
    """An HTTP client that is picky reads refusal after refusal on one connection."""
    door.shut()
    async with client_of(behind) as http:

        async def ask() -> ClientResponse:
            async with http.post(CHAT, json=BODY) as answer:
                assert (await answer.json())["error"] == REFUSED
                return answer

        assert [(await ask()).status for _ in range(5)] == [503] * 5


@pytest.mark.parametrize("is_shut", [False, True])
async def test_probes_are_always_answered(behind: FacadeServer, door: FakeDoor, is_shut: bool) -> None:
    """/healthz and /readyz neither wait nor are refused."""
    door.is_full = True
    if is_shut:
        door.shut()
    async with asyncio.timeout(20), client_of(behind) as http:
        for path in ("/healthz", "/readyz"):
            async with http.get(path) as answer:
                assert answer.status == 200
    assert not door.line


async def test_who_waits_is_served_in_its_turn(core: FakeCore, behind: FacadeServer, door: FakeDoor) -> None:
    """A request in line is not begun before the door lets it in, and nobody sees a difference but the wait."""
    wire = await Wire.to(behind)
    door.is_full = True
    request = chat()
    await wire.send(request[:200])
    await door.lined_up.wait()
    await wire.send(request[200:])
    await asyncio.sleep(0.05)
    assert not core.started.is_set()
    assert len(door.line) == 1
    door.open()
    assert (await wire.answer())[0] == 200
    assert door.waiting_bytes == 0
    wire.writer.close()


async def test_who_hangs_up_in_line_is_forgotten(core: FakeCore, behind: FacadeServer, door: FakeDoor) -> None:
    """A client that leaves the line never reaches the core, and frees what it has sent."""
    wire = await Wire.to(behind)
    door.is_full = True
    await wire.send(chat())
    await door.lined_up.wait()
    assert door.waiting_bytes > 0
    wire.writer.close()
    while door.waiting_bytes:
        await asyncio.sleep(0.01)
    door.open()
    await asyncio.sleep(0.05)
    assert not core.started.is_set()


async def test_a_large_body_in_line_is_not_read(behind: FacadeServer, door: FakeDoor) -> None:
    """A connection in line is read no further than what was read at once; it is served whole in its turn."""
    wire = await Wire.to(behind)
    door.is_full = True
    wire.writer.write(chat({**BODY, "x": "y" * 8_000_000}))
    await door.lined_up.wait()
    await asyncio.sleep(0.2)
    assert 0 < door.waiting_bytes < 1_000_000
    door.open()
    assert (await wire.answer())[0] == 200
    wire.writer.close()


async def test_what_has_begun_goes_on(core: FakeCore, behind: FacadeServer, door: FakeDoor) -> None:
    """A request that was let in gets the rest of its body in and its stream out while the door is shut."""
    core.script.steps = [first(chunk("Hel")), 0.1, last(chunk(finish="stop"))]
    wire = await Wire.to(behind)
    request = chat(STREAM, extra="connection: close\r\n")
    await wire.send(request[:-10])
    await asyncio.sleep(0.05)
    door.shut()
    await wire.send(request[-10:])
    assert b"data: [DONE]\n\n" in await wire.end()
    wire.writer.close()


async def test_pipelined_requests_keep_their_order(core: FakeCore, behind: FacadeServer, door: FakeDoor) -> None:
    """A request that comes while one is under way on its connection is answered after it, not refused before it."""
    core.script.delay_s = 0.2
    wire = await Wire.to(behind)
    await wire.send(chat())
    await core.started.wait()
    door.shut()
    await wire.send(chat())
    assert (await wire.answer())[0] == 200
    await wire.answer()
    wire.writer.close()


def slow_door(*, short_line: int) -> Door:
    """A door that finds every request too costly, so that it lets in one a turn: 500 a second at most."""
    costs = count()
    return Door(asyncio.get_running_loop(), lambda: float(next(costs)), short_line=short_line)


async def test_a_stop_serves_the_line(core: FakeCore, start_behind: StartBehind) -> None:
    """Who was in line when a stop began is served before it ends."""
    facade = await start_behind(slow_door(short_line=100), config(drain_timeout_s=20))
    wires = [await Wire.to(facade) for _ in range(50)]
    for wire in wires:
        await wire.send(chat())
    await core.started.wait()
    await facade.stop()
    for wire in wires:
        assert (await wire.answer())[0] == 200
        wire.writer.close()


async def test_a_loop_that_cannot_keep_up(start_behind: StartBehind) -> None:
    """A crowd waits and is served, who comes when it has waited for long is refused, and then all is well again."""
    facade = await start_behind(slow_door(short_line=1), config())
    crowd = [await Wire.to(facade) for _ in range(600)]
    for wire in crowd:
        wire.writer.write(chat())
    late = [await Wire.to(facade)]
    asked: list[asyncio.Task[tuple[int, dict[str, str], Any]]] = []
    while not any(task.done() and task.result()[0] == 503 for task in asked):
        await late[-1].send(chat())
        asked.append(asyncio.create_task(late[-1].answer()))
        late.append(await Wire.to(facade))
        await asyncio.sleep(0.02)
    for wire in crowd:
        assert (await wire.answer())[0] == 200
    await asyncio.gather(*asked)
    await late[0].send(chat())
    assert (await late[0].answer())[0] == 200
    for wire in (*crowd, *late):
        wire.writer.close()
