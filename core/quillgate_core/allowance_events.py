"""Tells the operator when a workspace has used 50, 80 or 100 % of an allowance: at least once each, in order.

The events of all replicas are rows, so that none is lost with a process and none made twice. An event that was sent and
whose end could not be written down, because the process died or the database went away, is sent again: receivers know
it by its id. Nothing here is in the way of a request: it reads sums after they were committed.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from functools import partial
from time import monotonic
from typing import Any, Final, TypeAlias

from quillgate_core.allowance_event import AllowanceEvent, Attempt, EventSender, EventStore
from quillgate_core.errors import QuillgateError

log = logging.getLogger(__name__)

MAX_NEW: Final = 1_000
MAX_BATCHES: Final = 10
BATCH: Final = 8
MAX_SENT_AT_ONCE: Final = 4
FIRST_PAUSE_S: Final = 5.0
MAX_PAUSE_S: Final = 3_600.0
MAX_DOUBLINGS: Final = 10
REST: Final = 20
"""How many times as long as a look took there is none after it, so that looks are a twentieth of the time at most."""

Blocking: TypeAlias = Callable[[Callable[[], Any]], Awaitable[Any]]
"""Runs a blocking call in a thread."""


class AllowanceEvents:
    """The chore, once a process; a round follows the one before.

    `jitter` returns a factor of each pause, up to 1; `clock` is the monotonic time in seconds.
    """

    def __init__(
        self,
        store: EventStore,
        sender: EventSender,
        *,
        blocking: Blocking,
        jitter: Callable[[], float] = lambda: random.uniform(0.8, 1.0),  # noqa: S311 - no secret
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._store = store
        self._sender = sender
        self._blocking = blocking
        self._jitter = jitter
        self._clock = clock
        self._look_time = clock()

    async def publish(self) -> int:
        """Makes the events that are missing, sends those that are due, and returns how many were delivered.

        A round is bounded, and ends early when the receiver fails: what is left has its turn in the next one. Raises
        Overloaded when events cannot be read.
        """
        await self._look()
        at_once = asyncio.Semaphore(MAX_SENT_AT_ONCE)

        async def deliver(event: AllowanceEvent) -> bool:
            async with at_once:
                return await self._deliver(event)

        delivered = 0
        for _ in range(MAX_BATCHES):
            events: list[AllowanceEvent] = await self._blocking(partial(self._store.claim, BATCH))
            batch = await asyncio.gather(*map(deliver, events))
            delivered += sum(batch)
            if not events or not all(batch):
                break
        return delivered

    async def _look(self) -> None:
        start_time = self._clock()
        if start_time < self._look_time:
            return
        await self._blocking(partial(self._store.notice, MAX_NEW))
        end_time = self._clock()
        self._look_time = end_time + REST * (end_time - start_time)

    async def _deliver(self, event: AllowanceEvent) -> bool:
        """Sends one event and writes down how that ended; whatever goes wrong only makes it come again."""
        try:
            attempt = await self._sender.send(event)
            await self._note(event, attempt)
            return attempt.is_delivered
        except QuillgateError as error:
            log.warning("event %s will be sent again: %s", event.event_id, error.message)
        except Exception:
            log.exception("event %s could not be sent", event.event_id)
        return False

    async def _note(self, event: AllowanceEvent, attempt: Attempt) -> None:
        if attempt.is_delivered:
            await self._blocking(partial(self._store.mark_delivered, event.event_id))
            log.info("event %s was delivered", event.event_id)
        elif attempt.is_final:
            await self._blocking(partial(self._store.give_up, event.event_id))
            log.error("event %s is given up: %s", event.event_id, attempt.cause)
        elif await self._blocking(partial(self._store.put_off, event.event_id, self._pause_s(event, attempt))):
            log.warning("event %s will be sent again: %s", event.event_id, attempt.cause)
        else:
            log.error("event %s is given up after a day: %s", event.event_id, attempt.cause)

    def _pause_s(self, event: AllowanceEvent, attempt: Attempt) -> float:
        """Returns 5 s after the first failure, twice as long after each more, up to an hour, each a little less."""
        pause_s = min(MAX_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(event.attempt_count, MAX_DOUBLINGS)) * self._jitter()
        return max(pause_s, min(MAX_PAUSE_S, attempt.retry_after_s))
