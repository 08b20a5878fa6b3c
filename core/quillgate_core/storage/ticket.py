"""A step on its way through the writer, and how its answer reaches the coroutine that waits for it.

The writer's thread reads a ticket; everything that decides about its future happens on the loop that submitted it, so
an answer and a cancellation never cross unnoticed: a reserve that nobody waits for any more is released again. This
module must not touch the database.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final

from quillgate_core.deadlines import Deadline, Deadlines
from quillgate_core.errors import Overloaded
from quillgate_core.reservation import Note, Outcome, Release, Reservation, Reserve, Settle, Step

logger = logging.getLogger(__name__)

LATE_S: Final = 0.1
"""A timer that fires so much too late tells of a process that was stopped, as when its machine was suspended."""
GRACE_S: Final = 0.25
"""How much longer an answer is then waited for, once: it may be there and not have been heard yet."""

Answer = tuple["StepTicket", Outcome]


class StepTicket:
    """One submitted step; `post` takes the Release that undoes it.

    An owned reserve is undone when its waiter gives up. One without owner is left as it is: its caller repeats it with
    the same id, releases it, or lets it expire, and an undo could hit the repeated one.
    """

    __slots__ = (
        "_delivered",
        "_due_time",
        "_future",
        "_is_abandoned",
        "_loop",
        "_post",
        "_timer",
        "is_attempted",
        "is_journaled",
        "step",
    )

    def __init__(
        self,
        step: Step,
        post: Callable[[Release], None],
        loop: asyncio.AbstractEventLoop | None,
        future: "asyncio.Future[Outcome] | None",
    ) -> None:
        self.step = step
        self.is_attempted = False
        self.is_journaled = False
        self._post = post
        self._loop = loop
        self._future = future
        self._due_time: float | None = None
        self._timer: Deadline | asyncio.TimerHandle | None = None
        self._is_abandoned = False
        self._delivered: Outcome | None = None

    @classmethod
    def of_running_loop(cls, step: Step, post: Callable[[Release], None]) -> "StepTicket":
        """Make the ticket of a coroutine that will wait for the answer."""
        loop = asyncio.get_running_loop()
        return cls(step, post, loop, loop.create_future())

    @classmethod
    def without_answer(cls, step: Settle | Note | Release, post: Callable[[Release], None]) -> "StepTicket":
        """Make a ticket that nobody waits for; a refusal is logged."""
        return cls(step, post, None, None)

    async def outcome(self) -> Outcome:
        """Wait for the answer; cancelling the wait abandons a reserve, while any other step lands all the same."""
        assert self._future is not None
        try:
            return await self._future
        except BaseException:
            self._is_abandoned = True
            if self._delivered is not None:
                self._undo(self._delivered)
            raise
        finally:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None  # it holds this ticket: one that is done must not wait for the garbage collector

    def owned_end(self) -> Settle | Release | None:
        """Return the step if it ends a reservation of a core, which nobody but this process will ever repeat."""
        step = self.step
        return step if isinstance(step, Settle | Release) and step.owner is not None else None

    def expire_with(self, deadlines: Deadlines) -> None:
        """Answer with Overloaded, and abandon the step, when there is no other answer by then."""
        assert self._loop is not None
        self._due_time = self._loop.time() + deadlines.timeout_s
        self._timer = deadlines.call(self._expire)

    def is_wanted(self) -> bool:
        """Say, before each attempt, whether the step is still to be applied; called by the writer's thread.

        An abandoned reserve is dropped while it was never sent. If its fate is unknown, its release takes its place.
        """
        if not self._is_abandoned or not isinstance(self.step, Reserve):
            return True
        undo = self._release_of(self.step) if self.is_attempted else None
        if undo is None:
            return False
        self.step = undo
        return True

    def _expire(self) -> None:
        assert self._future is not None
        assert self._loop is not None
        if self._due_time is not None and self._loop.time() - self._due_time > LATE_S:
            self._due_time = None
            self._timer = self._loop.call_later(GRACE_S, self._expire)
        elif not self._future.done():
            self._is_abandoned = True
            self._future.set_result(Overloaded("The request could not be metered in time; please try again."))

    def _deliver(self, outcome: Outcome) -> None:
        if self._future is None:
            self._log(outcome)
        elif self._future.done():
            self._undo(outcome)
        else:
            self._delivered = outcome
            self._future.set_result(outcome)

    def _undo(self, outcome: Outcome) -> None:
        if isinstance(self.step, Reserve) and isinstance(outcome, Reservation) and not outcome.replayed:
            undo = self._release_of(self.step)
            if undo is not None:
                self._post(undo)

    @staticmethod
    def _release_of(step: Reserve) -> Release | None:
        if step.owner is None:
            return None
        return Release(
            workspace_id=step.workspace_id,
            request_id=step.request_id,
            owner=step.owner,
            nonce=step.nonce,
            outcome="abandoned",
        )

    def _log(self, outcome: Outcome) -> None:
        is_undo = isinstance(self.step, Release) and self.step.nonce is not None
        if isinstance(outcome, Exception) and not is_undo and not isinstance(self.step, Note):
            logger.warning("the end of %s was refused: %s", self.step.request_id, type(outcome).__name__)


def deliver(answers: Sequence[Answer]) -> None:
    """Hand out a batch's answers from the writer's thread: one wake-up for each loop, not one for each step."""
    by_loop: dict[asyncio.AbstractEventLoop | None, list[Answer]] = {}
    for answer in answers:
        by_loop.setdefault(answer[0]._loop, []).append(answer)
    for loop, own_answers in by_loop.items():
        if loop is None:
            _deliver_all(own_answers)
            continue
        try:
            loop.call_soon_threadsafe(_deliver_all, own_answers)
        except RuntimeError:  # the loop is closed: nobody waits
            for ticket, outcome in own_answers:
                ticket._undo(outcome)


def _deliver_all(answers: Sequence[Answer]) -> None:
    for ticket, outcome in answers:
        ticket._deliver(outcome)
