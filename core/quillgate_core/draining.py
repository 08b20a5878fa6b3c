"""Requests whose callers have left while their provider goes on to work, and to bill: read on to their usage, bounded.

Only for providers that the operator set to `drain`. Their requests are served in tasks of their own, which a caller's
cancellation does not reach: thrown into the reading of an answer, it would end it. It must not know what is read, nor
settle anything: the work that goes on does that, as if its caller were still there.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Any, Final, Generic, Protocol, TypeVar

from quillgate_core.errors import QuillgateError

log = logging.getLogger(__name__)

MAX_DRAINS: Final = 256
"""Most requests that are read on at once; the provider is hung up on beyond it."""

DRAIN_S: Final = 60.0
"""How long one is read on at most. How much of it, the provider's own limit says."""

QUEUE_BATCHES: Final = 8
"""How far the provider is read ahead of its caller."""

CLOSE_S: Final = 1.0
"""How long it is waited for until work that was cancelled has ended."""

T = TypeVar("T")


class Leavable(Protocol):
    """A request as far as it matters that its caller leaves."""

    @property
    def drains(self) -> bool:
        """Whether a provider is under way that shall be read on."""

    def leave(self) -> None:
        """Takes note that the caller has left: nobody else is to be asked."""


class Draining:
    """Serves requests so that they can outlive their callers; belongs to one event loop."""

    def __init__(self, *, max_drains: int = MAX_DRAINS, drain_s: float = DRAIN_S) -> None:
        self._max_drains = max_drains
        self._drain_s = drain_s
        self._tasks: set[asyncio.Task[Any]] = set()
        self._drains: set[asyncio.Task[Any]] = set()

    async def answer(self, work: Coroutine[Any, Any, T], request: Leavable) -> T:
        """Returns what the work returns; when this is cancelled, the work goes on if it may."""
        task = self._begin(work)
        try:
            await asyncio.wait((task,))
            return task.result()
        finally:
            await self._part(task, request)

    async def relay(self, batches: AsyncGenerator[T, None], request: Leavable) -> AsyncGenerator[T, None]:
        """Yields what the generator yields, a few ahead; when this is closed, the generator goes on if it may."""
        pump = _Pump(batches)
        task = self._begin(pump.run())
        try:
            while pieces := await pump.take():
                yield pieces[0]
            await asyncio.wait((task,))
            task.result()
        finally:
            pump.leave()
            await self._part(task, request)

    async def stop(self) -> None:
        """Ends everything that is read on: what was observed until now is settled. What leaves later is not read on."""
        self._max_drains = 0
        drains = tuple(self._drains)
        for task in drains:
            task.cancel()
        if drains:
            await asyncio.wait(drains, timeout=CLOSE_S)

    def _begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)  # the loop itself would forget it
        task.add_done_callback(self._end)
        return task

    async def _part(self, task: asyncio.Task[Any], request: Leavable) -> None:
        """Leaves unfinished work to itself, or cancels it and waits a moment for its end."""
        if task.done():
            return
        if request.drains and len(self._drains) < self._max_drains:
            request.leave()
            self._drains.add(task)
            timer = asyncio.get_running_loop().call_later(self._drain_s, task.cancel)
            task.add_done_callback(lambda _: timer.cancel())
            return
        task.cancel()  # it has begun, or it would settle nothing: its turn came before that of whoever waits for it
        await asyncio.wait((task,), timeout=CLOSE_S)

    def _end(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        is_drain = task in self._drains
        self._drains.discard(task)
        error = None if task.cancelled() else task.exception()
        if is_drain and error is not None and not isinstance(error, QuillgateError):
            log.error("a request whose caller had left failed", exc_info=error)


class _Pump(Generic[T]):
    """Reads a generator ahead of whoever takes from it, as far as there is room; after `leave` to its end."""

    def __init__(self, batches: AsyncGenerator[T, None]) -> None:
        self._batches = batches
        self._queue: asyncio.Queue[tuple[T, ...]] = asyncio.Queue()
        self._room = asyncio.Semaphore(QUEUE_BATCHES)
        self._is_left = False

    async def run(self) -> None:
        """Reads; what the generator raises is raised."""
        try:
            async with aclosing(self._batches) as batches:
                async for batch in batches:
                    if not self._is_left:
                        await self._room.acquire()
                        self._queue.put_nowait((batch,))
        finally:
            self._queue.put_nowait(())

    async def take(self) -> tuple[T, ...]:
        """Returns the next one, none at the end."""
        taken = await self._queue.get()
        self._room.release()
        return taken

    def leave(self) -> None:
        """Nobody takes anything any more."""
        self._is_left = True
        self._room.release()
