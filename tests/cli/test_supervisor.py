"""The parent of workers: when it announces them, replaces them, and gives up."""

import asyncio
import itertools
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from fakes.fake_worker import FakeCrew, FakeWorker

from quillgate_cli.serve.doorman import Doorman
from quillgate_cli.serve.supervisor import Supervisor


def _supervisor(crew: FakeCrew, sockets: tuple[socket.socket, ...] = (), *, count: int = 2) -> Supervisor:
    start: Any = crew.start
    return Supervisor(start, Doorman(sockets), count=count, announcement="announce developer")


async def _stop(running: "asyncio.Task[int]", kind: signal.Signals = signal.SIGTERM) -> int:
    os.kill(os.getpid(), kind)
    async with asyncio.timeout(10):
        return await running


async def _announced(worker: FakeWorker) -> None:
    async with asyncio.timeout(10):
        while not worker.heard:
            await asyncio.sleep(0.005)
    await asyncio.sleep(0.02)


async def test_first_worker_announces_when_all_serve() -> None:
    """Only the first worker is asked to announce, once; a signal then ends all, with 0."""
    crew = FakeCrew()
    running = asyncio.create_task(_supervisor(crew).run())
    await crew.wait_for(2)
    await _announced(crew.started[0][1])
    assert await _stop(running, signal.SIGINT) == 0
    assert [(number, worker.heard) for number, worker in crew.started] == [
        (1, ["announce developer", "interrupt"]),
        (2, ["interrupt"]),
    ]


async def test_failed_start_ends_the_whole() -> None:
    """A worker that cannot start, while others can, ends all of them with its code, and nothing is announced."""
    crew = FakeCrew(lambda number: FakeWorker(serves=number != 2))
    assert await _supervisor(crew).run() == 1
    assert [worker.heard for number, worker in crew.started if number == 1] == [["terminate"]]


async def test_failed_announcement_ends_the_whole() -> None:
    """When the first worker dies over the announcement, for instance as the database is away, all end with 1."""
    crew = FakeCrew(lambda number: FakeWorker(announces=False))
    assert await _supervisor(crew).run() == 1
    assert all(worker.is_over for _, worker in crew.started)


async def test_dead_worker_is_replaced_by_its_number() -> None:
    """A worker that dies later is replaced, and what is announced already is not announced again."""
    crew = FakeCrew()
    running = asyncio.create_task(_supervisor(crew).run())
    await crew.wait_for(2)
    await _announced(crew.started[0][1])
    crew.started[0][1].end(-9)
    replacement = await crew.wait_for(3)
    assert [number for number, _ in crew.started] == [1, 2, 1]
    await asyncio.sleep(0.02)
    assert await _stop(running) == 0
    assert replacement.heard == ["terminate"]


async def test_failing_replacement_is_tried_again_while_another_serves() -> None:
    """A replacement that cannot start, such as while the database is away, harms nobody and is tried again."""
    made: list[int] = []

    def make(number: int) -> FakeWorker:
        made.append(number)
        return FakeWorker(serves=made.count(2) in (0, 1, 4))

    crew = FakeCrew(make)
    running = asyncio.create_task(_supervisor(crew).run())
    await crew.wait_for(2)
    await _announced(crew.started[0][1])
    crew.started[1][1].end(1)
    await crew.wait_for(5)
    assert not running.done()
    assert await _stop(running) == 0


async def test_nothing_left_to_serve_ends_the_whole() -> None:
    """When no worker serves and one fails to start, the whole ends, for whoever restarts it."""
    crew = FakeCrew(lambda number: FakeWorker(serves=len(crew.started) < 2))
    running = asyncio.create_task(_supervisor(crew).run())
    await crew.wait_for(2)
    await _announced(crew.started[0][1])
    for _, worker in list(crew.started):
        worker.end(-11)
    async with asyncio.timeout(10):
        assert await running == 1


async def test_second_signal_kills() -> None:
    """A second signal ends workers that do not stop, with 130."""
    crew = FakeCrew(lambda number: FakeWorker(obeys=False))
    running = asyncio.create_task(_supervisor(crew, count=1).run())
    worker = await crew.wait_for(1)
    await _announced(worker)
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.sleep(0.02)
    assert not running.done()
    assert await _stop(running) == 130
    assert worker.is_killed


@contextmanager
def _doorman(workers: int) -> Iterator[tuple[Doorman, tuple[str, int], list[tuple[socket.socket, socket.socket]]]]:
    """An open doorman, the address at which it accepts, and its and the workers' ends of the ways to them."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    address = listening.getsockname()
    ways = [socket.socketpair() for _ in range(workers)]
    doorman = Doorman((listening,))
    for ours, _ in ways:
        doorman.add(ours)
    doorman.open()
    yield doorman, address, ways
    doorman.close()
    for each in itertools.chain.from_iterable(ways):
        each.close()


async def test_connections_go_to_workers_in_turn() -> None:
    """Each connection reaches one worker, in turn, and a worker that is gone is left out."""
    with _doorman(3) as (_, address, ways):
        ways[2][1].close()
        clients = [await asyncio.open_connection(*address) for _ in range(6)]
        for _, theirs in ways[:2]:
            for _ in range(3):
                assert await asyncio.to_thread(_receive, theirs) == 1
        for _, writer in clients:
            writer.close()


async def test_a_crowd_that_workers_are_slow_to_take_is_kept() -> None:
    """When no worker has room for one more connection, it waits for one that has, and so do those behind it."""
    with _doorman(1) as (_, address, [(ours, theirs)]):
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        clients = [socket.create_connection(address) for _ in range(100)]
        await asyncio.sleep(0.2)
        assert [await asyncio.to_thread(_receive, theirs) for _ in clients] == [1] * 100
        for client in clients:
            client.close()


async def test_the_last_of_a_crowd_is_kept_too() -> None:
    """A connection that waits for a worker needs no other one to come after it."""
    with _doorman(1) as (_, address, [(ours, theirs)]):
        filling = 0
        with pytest.raises(BlockingIOError):
            while True:
                filling += ours.send(b"c" * 1000)
        with socket.create_connection(address, 10):
            await asyncio.sleep(0.2)
            theirs.settimeout(10)
            while filling:
                filling -= len(theirs.recv(min(filling, 65_536)))
            assert await asyncio.to_thread(_receive, theirs) == 1


async def test_what_nobody_takes_ends_with_the_doorman(caplog: pytest.LogCaptureFixture) -> None:
    """At a stop, a connection that no worker took is closed, and its client does not wait for ever."""
    with _doorman(1) as (doorman, address, [(_, theirs)]):
        theirs.close()
        with socket.create_connection(address, 10) as client:
            await asyncio.sleep(0.1)
            doorman.close()
            assert client.recv(1) == b""
    assert caplog.messages == ["no worker takes connections; one was closed"]


def _receive(theirs: socket.socket) -> int:
    """Waits for one connection and closes it; returns how many came with the byte."""
    theirs.settimeout(10)
    _, descriptors, _, _ = socket.recv_fds(theirs, 1, 4)
    for descriptor in descriptors:
        os.close(descriptor)
    return len(descriptors)
