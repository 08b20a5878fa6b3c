"""One thread that puts all pending steps of a process into one transaction after the other.

Grouping is what makes durable metering cheap: while one transaction commits, the next batch gathers. The thread owns
the only connection that writes the ledger. A step that was accepted is applied exactly once, whatever the database
does meanwhile: any failure repeats the batch with the same ids. This module must not know what a step means beyond
that; `ledger.py` does.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Final, Protocol

import psycopg

from quillgate_core import failpoint as places
from quillgate_core.errors import Overloaded, QuillgateError
from quillgate_core.failpoint import Failpoint, no_failpoint
from quillgate_core.reservation import Note, Outcome, Release, Reserve, Settle, Step
from quillgate_core.storage.ledger import LedgerContended
from quillgate_core.storage.ticket import Answer, StepTicket, deliver

logger = logging.getLogger(__name__)

MAX_BATCH_STEPS: Final = 512
MAX_QUEUE_STEPS: Final = 20_000
RESERVE_TIMEOUT_S: Final = 2.0
FIRST_BACKOFF_S: Final = 0.05
LAST_BACKOFF_S: Final = 1.0
MAX_CONFLICTS: Final = 5


class StepLedger(Protocol):
    """What applies a batch: the ledger, or a test's stand-in."""

    def apply(self, connection: psycopg.Connection, steps: Sequence[Step]) -> list[Outcome]:
        """Apply all steps durably and answer each, or raise and have applied none, or an unknown all."""


class GroupedWriter:
    """Applies steps of any number of coroutines and threads, grouped into transactions.

    A reserve that the database does not answer within `reserve_timeout_s` is answered with Overloaded and undone. Ends
    of reservations wait until they land. `start` and `close` frame its life.
    """

    def __init__(
        self,
        *,
        connect: Callable[[], psycopg.Connection],
        ledger: StepLedger,
        max_batch_steps: int = MAX_BATCH_STEPS,
        max_queue_steps: int = MAX_QUEUE_STEPS,
        reserve_timeout_s: float = RESERVE_TIMEOUT_S,
        failpoint: Failpoint = no_failpoint,
    ) -> None:
        self._connect = connect
        self._ledger = ledger
        self._max_batch_steps = max_batch_steps
        self._max_queue_steps = max_queue_steps
        self._reserve_timeout_s = reserve_timeout_s
        self._failpoint = failpoint
        self._queue: SimpleQueue[StepTicket | None] = SimpleQueue()
        self._connection: psycopg.Connection | None = None
        self._is_closing = False
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="quillgate-writer", daemon=True)

    def start(self) -> None:
        """Start the thread; it connects when the first step arrives."""
        self._thread.start()

    def close(self, timeout_s: float) -> bool:
        """Refuse new work, land what is queued, and stop; False when the time was not enough to land everything.

        To be called when all requests have ended: what is posted later is left to the recovery of this process's rows.
        """
        self._is_closing = True
        self._queue.put(None)
        self._thread.join(timeout_s)
        is_drained = not self._thread.is_alive()
        self._stopped.set()
        self._queue.put(None)
        if is_drained:
            self._abandon_queue()
        else:
            logger.error("the ledger writer stops with about %d steps not written", self._queue.qsize())
        return is_drained

    def submit(self, step: Step) -> StepTicket:
        """Queue a step of the running loop's coroutine; raises Overloaded when closing or when the queue is full.

        The end of an owned reservation is never refused: there are no more of them than open reservations.
        """
        if self._stopped.is_set():
            raise Overloaded("The service stopped.")
        if not isinstance(step, Settle | Release) or step.owner is None:
            self._refuse_when_full()
        ticket = StepTicket.of_running_loop(step, self.post)
        if isinstance(step, Reserve):
            ticket.expire_after(self._reserve_timeout_s)
        self._queue.put(ticket)
        self._failpoint(places.QUEUED)
        return ticket

    def post(self, step: Settle | Note | Release) -> None:
        """Queue the end of a reservation or a note from any thread; it lands without an answer, a refusal is logged.

        Each open reservation has at most one of either waiting here, so there are no more than twice as many.
        """
        if self._stopped.is_set():
            logger.error("the end of %s comes after the writer's: recovery will charge its hold", step.request_id)
            return
        self._queue.put(StepTicket.without_answer(step, self.post))

    def _refuse_when_full(self) -> None:
        if self._is_closing:
            raise Overloaded("The service is shutting down; please try again.")
        if self._queue.qsize() >= self._max_queue_steps:
            raise Overloaded("Too many requests are waiting to be metered; please try again.")

    def _run(self) -> None:
        while not self._stopped.is_set():
            self._land(self._take())
            if self._is_closing and self._queue.empty():
                break
        self._disconnect()

    def _take(self) -> list[StepTicket]:
        """Wait for a step, then take what is queued; nothing but `close` wakes it without one."""
        first = self._queue.get()
        tickets = [] if first is None else [first]
        while len(tickets) < self._max_batch_steps:
            try:
                ticket = self._queue.get_nowait()
            except Empty:
                break
            if ticket is not None:
                tickets.append(ticket)
        return tickets

    def _land(self, tickets: list[StepTicket]) -> None:
        """Apply the tickets, trying for ever, until each has its answer."""
        backoff_s = FIRST_BACKOFF_S
        conflicts = 0
        while tickets := [ticket for ticket in tickets if ticket.is_wanted()]:
            try:
                answers = self._apply(tickets)
            except Exception as error:
                self._disconnect()
                conflicts += isinstance(error, psycopg.errors.UniqueViolation)
                if is_fault_of_a_step(error) or conflicts > MAX_CONFLICTS:
                    self._separate(tickets, error)
                    return
                logger.warning("a batch of %d steps is tried again: %s", len(tickets), type(error).__name__)
                for ticket in tickets:
                    ticket.is_attempted = True
                if self._stopped.wait(backoff_s):
                    deliver([(ticket, Overloaded("The service stopped.")) for ticket in tickets])
                    return
                backoff_s = min(backoff_s * 2, LAST_BACKOFF_S)
            else:
                deliver(answers)
                self._failpoint(places.ANSWERED)
                return

    def _apply(self, tickets: Sequence[StepTicket]) -> list[Answer]:
        self._failpoint(places.TAKEN)
        if self._connection is None:
            self._connection = self._connect()
        outcomes = self._ledger.apply(self._connection, [ticket.step for ticket in tickets])
        return list(zip(tickets, outcomes, strict=True))

    def _disconnect(self) -> None:
        """Drop the connection: after an error it may hold an open transaction, and the server then rolls it back."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _separate(self, tickets: list[StepTicket], error: Exception) -> None:
        """Land the halves of a batch apart, so that a step which can never be applied fails alone."""
        if len(tickets) > 1:
            middle = len(tickets) // 2
            self._land(tickets[:middle])
            self._land(tickets[middle:])
            return
        logger.error("a step cannot be recorded: %s of %s", type(error).__name__, tickets[0].step.request_id)
        deliver([(tickets[0], QuillgateError("The step could not be recorded."))])

    def _abandon_queue(self) -> None:
        """Answer whatever came too late to be written, so that nobody waits for it."""
        while True:
            try:
                ticket = self._queue.get_nowait()
            except Empty:
                return
            if ticket is not None:
                deliver([(ticket, Overloaded("The service stopped."))])


def is_fault_of_a_step(error: Exception) -> bool:
    """Tell a batch that can never be applied from a database that is away, locked, read-only, full or restarting.

    Only what PostgreSQL says about data counts, and what is no database error at all. Anything else is tried again:
    giving up on a settle for a wrong reason would lose its charge.
    """
    if isinstance(error, psycopg.errors.UniqueViolation):
        return False
    if isinstance(error, psycopg.DataError | psycopg.IntegrityError):
        return True
    return not isinstance(error, psycopg.Error | OSError | LedgerContended)
