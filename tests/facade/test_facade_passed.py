"""A facade that is given its connections by another process, as a worker is."""

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import pytest
from fakes.facade_site import config
from fakes.fake_core import FakeCore

from quillgate_facade.app import FacadeServer, build_app, serve_passed

REQUEST = b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"


@pytest.fixture
async def passed(core: FakeCore) -> AsyncIterator[tuple[FacadeServer, socket.socket]]:
    """A facade behind a parent, and the parent's end."""
    ours, theirs = socket.socketpair()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{core.port}") as channel:
        server = await serve_passed(build_app(channel, config(port=4321)), theirs)
        with ours:
            yield server, ours
        await server.stop()


def _pass_on(parent: socket.socket, connection: socket.socket) -> None:
    socket.send_fds(parent, [b"c"], [connection.fileno()])
    connection.close()


async def _answer(client: socket.socket) -> bytes:
    client.setblocking(False)
    reader, writer = await asyncio.open_connection(sock=client)
    writer.write(REQUEST)
    answer = await asyncio.wait_for(reader.read(), 20)
    writer.close()
    return answer


def _connect() -> tuple[socket.socket, socket.socket]:
    """A client's and a server's end of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = socket.create_connection(listening.getsockname())
        return client, listening.accept()[0]


async def test_passed_connections_are_served(passed: tuple[FacadeServer, socket.socket]) -> None:
    """Each connection that is passed on is answered; the port is the one that the settings name."""
    server, parent = passed
    assert server.port == 4321
    for _ in range(3):
        client, connection = _connect()
        _pass_on(parent, connection)
        assert (await _answer(client)).startswith(b"HTTP/1.1 200 ")


async def test_broken_messages_harm_nobody(passed: tuple[FacadeServer, socket.socket]) -> None:
    """A byte without a connection, and one with a file that is no connection, are passed over."""
    _, parent = passed
    parent.send(b"c")
    with Path("/dev/null").open("rb") as file:
        socket.send_fds(parent, [b"c"], [file.fileno()])
    client, connection = _connect()
    _pass_on(parent, connection)
    assert (await _answer(client)).startswith(b"HTTP/1.1 200 ")


async def test_stop_closes_the_way(passed: tuple[FacadeServer, socket.socket]) -> None:
    """After a stop, nothing can be passed on: the parent hears it and turns to another worker."""
    server, parent = passed
    await server.stop()
    client, connection = _connect()
    with client, pytest.raises(BrokenPipeError):
        _pass_on(parent, connection)
    connection.close()


async def test_a_parent_that_dies_leaves_its_connections(passed: tuple[FacadeServer, socket.socket]) -> None:
    """What was passed on before the other end closed is still answered."""
    _, parent = passed
    client, connection = _connect()
    _pass_on(parent, connection)
    parent.close()
    assert (await _answer(client)).startswith(b"HTTP/1.1 200 ")
