"""What a core does again and again beside serving: each chore in a task of its own, a round after the one before.

A round that fails is logged and repeated by the next one. Nothing here knows what a chore does.
"""

import asyncio
import inspect
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias

from quillgate_core.errors import QuillgateError

log = logging.getLogger(__name__)

MOST_JITTER: Final = 1.5

Chore: TypeAlias = Callable[[], object]
"""A coroutine function, or a function that blocks."""

Blocking: TypeAlias = Callable[[Chore], Awaitable[Any]]
"""Runs what blocks in a thread."""


class Chores:
    """The chores of one core, from `every` to `stop`; `blocking` runs those that are no coroutines."""

    def __init__(self, blocking: Blocking) -> None:
        self._blocking = blocking
        self._tasks: list[asyncio.Task[None]] = []

    def every(self, period_s: float, chore: Chore, *, at_once: bool = False, blocking: Blocking | None = None) -> None:
        """Does a chore each `period_s` seconds from now on, and, if `at_once`, now.

        `blocking` is for a chore that must not wait for others' threads.
        """
        pause_s = 0.0 if at_once else period_s
        self._tasks.append(asyncio.create_task(self._repeat(pause_s, period_s, chore, blocking or self._blocking)))

    def scattered(self, start_s: float, period_s: float, chore: Chore) -> None:
        """Does a chore first after `start_s`, then each `period_s` seconds or up to half as long again.

        So replicas that started together do not do it at the same moment.
        """
        self._tasks.append(asyncio.create_task(self._scatter(start_s, period_s, chore)))

    async def once(self, chore: Chore, *, blocking: Blocking | None = None) -> None:
        """Does a chore, and only logs its failure."""
        name = getattr(chore, "__name__", chore)
        try:
            await (chore() if inspect.iscoroutinefunction(chore) else (blocking or self._blocking)(chore))
        except QuillgateError as error:
            log.warning("%s is put off: %s", name, error.message)
        except Exception:
            log.exception("%s failed", name)

    async def stop(self) -> None:
        """Ends all of them, wherever they are."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    async def _repeat(self, pause_s: float, period_s: float, chore: Chore, blocking: Blocking) -> None:
        while True:
            await asyncio.sleep(pause_s)
            pause_s = period_s
            await self.once(chore, blocking=blocking)

    async def _scatter(self, pause_s: float, period_s: float, chore: Chore) -> None:
        while True:
            await asyncio.sleep(pause_s * random.uniform(1.0, MOST_JITTER))  # noqa: S311 - no secret
            pause_s = period_s
            await self.once(chore)
