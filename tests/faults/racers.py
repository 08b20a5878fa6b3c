"""Processes with a ledger writer each, which all ask for one workspace's last messages at the same moment."""

import asyncio
import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from typing import Final

from quillgate_core.errors import AllowanceExhausted
from quillgate_core.reservation import Reservation, Reserve
from quillgate_core.storage.ledger import Ledger, connect_ledger
from quillgate_core.storage.writer import GroupedWriter

PROCESSES: Final = 4
REQUESTS: Final = 25
JOIN_S: Final = 10


@contextmanager
def racers(database_url: str) -> Iterator["Racers"]:
    """Start the processes, and end them."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(PROCESSES)
    pipes = [context.Pipe() for _ in range(PROCESSES)]
    processes = [
        context.Process(target=_race_for_ever, args=(number, database_url, pipe[1], barrier), daemon=True)
        for number, pipe in enumerate(pipes)
    ]
    for process in processes:
        process.start()
    try:
        yield Racers([pipe[0] for pipe in pipes])
    finally:
        for pipe, _ in pipes:
            pipe.send(None)
        for process in processes:
            process.join(JOIN_S)
            process.kill()
            process.join(JOIN_S)


class Racers:
    """Runs races and says how many were admitted."""

    def __init__(self, pipes: list[Connection]) -> None:
        self._pipes = pipes

    def race(self, workspace_id: str) -> int:
        """Have 4 processes ask for one message 25 times each, at once, and return how many got it."""
        for pipe in self._pipes:
            pipe.send(workspace_id)
        return sum(pipe.recv() for pipe in self._pipes)


def _race_for_ever(number: int, database_url: str, pipe: Connection, barrier: Barrier) -> None:
    writer = GroupedWriter(connect=partial(connect_ledger, database_url), ledger=Ledger())
    writer.start()
    while (workspace_id := pipe.recv()) is not None:
        pipe.send(asyncio.run(_race(writer, number, workspace_id, barrier)))
    writer.close(JOIN_S)


async def _race(writer: GroupedWriter, number: int, workspace_id: str, barrier: Barrier) -> int:
    steps = [
        Reserve(workspace_id=workspace_id, request_id=f"{number}-{index}", hold_messages=1, owner=f"core{number}")
        for index in range(REQUESTS)
    ]
    barrier.wait(JOIN_S)
    outcomes = await asyncio.gather(*(writer.submit(step).outcome() for step in steps))
    assert all(isinstance(outcome, Reservation | AllowanceExhausted) for outcome in outcomes), outcomes
    return sum(isinstance(outcome, Reservation) for outcome in outcomes)
