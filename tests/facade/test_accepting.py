"""How connections are taken from listening sockets: many in a turn, none lost at a stop, calmly when none can be."""

import asyncio
import errno
import logging
import socket
from collections.abc import Callable

import pytest
from fakes.facade_site import StartFacade, config

from quillgate_facade.accepting import BACKLOG, Acceptor

BOUND_S = 20.0
REQUEST = b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"


class FullTable(socket.socket):
    """A listening socket of a process that has no descriptor left, until one is closed."""

    is_full = True
    refusals = 0

    def accept(self) -> tuple[socket.socket, object]:
        """Accepts, or fails as the kernel does."""
        if self.is_full:
            self.refusals += 1
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


class Site:
    """An acceptor, what it took, and clients."""

    def __init__(self, listening: socket.socket | None = None) -> None:
        self.listening = listening or socket.socket()
        self.listening.bind(("127.0.0.1", 0))
        self.address = self.listening.getsockname()
        self.taken: list[socket.socket] = []
        self.clients: list[socket.socket] = []
        self.is_open = True

    def acceptor(self) -> Acceptor:
        """One that gives everything to this site, while it is open."""
        return Acceptor([self.listening], self._take, lambda: self.is_open)

    def _take(self, connection: socket.socket) -> bool:
        self.taken.append(connection)
        return True

    def connect(self, count: int) -> None:
        """So many clients connect before the event loop gets to anything else."""
        self.clients += [socket.create_connection(self.address, BOUND_S) for _ in range(count)]

    def close(self) -> None:
        """Closes all ends."""
        for each in (*self.taken, *self.clients):
            each.close()


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(BOUND_S):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_crowd_is_accepted_in_a_few_turns() -> None:
    """A busy loop turns seldom: what waits is taken by the hundred, not one in a turn."""
    site = Site()
    acceptor = site.acceptor()
    acceptor.open()
    site.connect(300)
    turns = 0
    while len(site.taken) < 300:
        await asyncio.sleep(0)
        turns += 1
        assert turns < 20
    acceptor.close()
    site.close()


async def test_close_takes_what_has_come() -> None:
    """Who is connected when a stop begins is taken, however many; who comes later is refused; closing again is fine."""
    site = Site()
    acceptor = site.acceptor()
    acceptor.open()
    site.connect(200)
    acceptor.close()
    acceptor.close()
    assert len(site.taken) == 200
    with pytest.raises(ConnectionRefusedError):
        site.connect(1)
    site.close()


async def test_connections_wait_while_nobody_is_ready() -> None:
    """They stay in the kernel's queue, and are taken when somebody is there again."""
    site = Site()
    site.is_open = False
    acceptor = site.acceptor()
    acceptor.open()
    site.connect(3)
    await asyncio.sleep(0.1)
    assert not site.taken
    site.is_open = True
    await _until(lambda: len(site.taken) == 3)
    acceptor.close()
    site.close()


async def test_a_process_without_descriptors_waits(caplog: pytest.LogCaptureFixture) -> None:
    """It says so once, looks again a few times a second, and goes on when there is one."""
    listening = FullTable()
    site = Site(listening)
    acceptor = site.acceptor()
    with caplog.at_level(logging.ERROR):
        acceptor.open()
        site.connect(2)
        await asyncio.sleep(0.3)
    assert 1 <= listening.refusals <= 10
    assert caplog.messages == ["no connection can be accepted for now: Too many open files"]
    listening.is_full = False
    await _until(lambda: len(site.taken) == 2)
    acceptor.close()
    site.close()


async def test_a_port_that_is_taken_is_an_error() -> None:
    """Of two that were bound to one port, the second to listen is told."""
    with socket.socket() as first:
        first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        first.bind(("127.0.0.1", 0))
        second = socket.socket()
        second.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        second.bind(first.getsockname())
        first.listen(BACKLOG)
        acceptor = Acceptor([second], lambda connection: True)
        with pytest.raises(OSError, match="in use"):
            acceptor.open()
        second.close()


async def test_a_stop_answers_who_is_connected(start: StartFacade) -> None:
    """A request on a connection that was not accepted yet when the stop began is answered, and not cut off."""
    facade = await start(config())
    clients = [socket.create_connection(("127.0.0.1", facade.port), BOUND_S) for _ in range(5)]
    for client in clients:
        client.send(REQUEST)
    await facade.stop()
    for client in clients:
        with client:
            assert client.recv(4096).startswith(b"HTTP/1.1 ")
