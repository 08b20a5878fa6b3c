"""One thread that puts all pending steps of a process into one transaction after the other.

Grouping is what makes durable metering cheap: while one transaction commits, the next batch gathers. The thread owns
the only connection that writes the ledger. A step that was accepted is applied exactly once, whatever the database
does meanwhile: any failure repeats the batch with the same ids. While it fails, the ends of this process's own
reservations are written down in a journal, so that they outlive the process. This module must not know what a step
means beyond that; `ledger.py` does.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Final, Protocol

import psycopg

from quillgate_core import failpoint as places
from quillgate_core.deadlines import Deadlines
from quillgate_core.errors import Overloaded, QuillgateError, ReservationClosed
from quillgate_core.failpoint import Failpoint, no_failpoint
from quillgate_core.reservation import Note, Outcome, Receipt, Release, Reserve, Settle, Step
from quillgate_core.storage.ledger import LedgerContended
from quillgate_core.storage.ticket import Answer, StepTicket, deliver

logger = logging.getLogger(__name__)

MAX_BATCH_STEPS: Final = 512
MAX_QUEUE_STEPS: Final = 20_000
RESERVE_TIMEOUT_S: Final = 2.0
FIRST_BACKOFF_S: Final = 0.05
LAST_BACKOFF_S: Final = 1.0
MAX_CONFLICTS: Final = 5
STOP_S: Final = 1.0
STALL_S: Final = 0.5
WATCH_S: Final = 0.1


class StepLedger(Protocol):
    """What applies a batch: the ledger, or a test's stand-in."""

    def apply(self, connection: psycopg.Connection, steps: Sequence[Step]) -> list[Outcome]:
        """Apply all steps durably and answer each, or raise and have applied none, or an unknown all."""


class EndJournal(Protocol):
    """Where ends are written down that the database cannot take: the process's journal, or a test's stand-in."""

    def append(self, ends: Sequence[Settle | Release]) -> None:
        """Put the ends on disk, durably; raises OSError."""

    def clear(self) -> None:
        """Forget all of them, as they have landed; raises OSError."""


class GroupedWriter:
    """Applies steps of any number of coroutines and threads, grouped into transactions.

    A reserve that the database does not answer within `reserve_timeout_s` is answered with Overloaded and undone. Ends
    of reservations wait until they land, those of owned ones in the `journal` as well. An owner's end that finds its
    row recovered is given to `correct`, which makes the charge true; it blocks, and raises Overloaded to be called
    again. `start` and `close` frame the writer's life.
    """

    def __init__(
        self,
        *,
        connect: Callable[[], psycopg.Connection],
        ledger: StepLedger,
        max_batch_steps: int = MAX_BATCH_STEPS,
        max_queue_steps: int = MAX_QUEUE_STEPS,
        reserve_timeout_s: float = RESERVE_TIMEOUT_S,
        journal: EndJournal | None = None,
        correct: Callable[[Settle | Release], Receipt] | None = None,
        failpoint: Failpoint = no_failpoint,
    ) -> None:
        self._connect = connect
        self._ledger = ledger
        self._max_batch_steps = max_batch_steps
        self._max_queue_steps = max_queue_steps
        self._reserving = Deadlines(reserve_timeout_s)
        self._journal = journal
        self._correct = correct
        self._failpoint = failpoint
        self._queue: SimpleQueue[StepTicket | None] = SimpleQueue()
        self._waiting: deque[StepTicket] = deque()
        self._journaled_ends = 0
        self._connection: psycopg.Connection | None = None
        self._is_closing = False
        self._stopped = threading.Event()
        self._in_hand: Sequence[StepTicket] = ()
        self._begin_time: float | None = None
        self._hand = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="quillgate-writer", daemon=True)
        self._watcher = threading.Thread(target=self._watch, name="quillgate-writer-watch", daemon=True)

    def start(self) -> None:
        """Start the thread, which connects when the first step arrives, and the one that watches it."""
        self._thread.start()
        if self._journal is not None:
            self._watcher.start()

    def close(self, timeout_s: float) -> bool:
        """Refuse new work, land what is queued, and stop; False when the time was not enough to land everything.

        To be called when all requests have ended: what is posted later is left to the recovery of this process's rows.
        """
        self._is_closing = True
        self._queue.put(None)
        self._thread.join(timeout_s)
        is_drained = not self._thread.is_alive()
        if not is_drained:
            logger.error("the ledger writer stops with about %d steps not written", self._queue_steps())
        while self._rescue():
            pass
        self._stopped.set()
        self._queue.put(None)
        self._thread.join(STOP_S)
        if not self._thread.is_alive():
            self._abandon_queue()
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
            ticket.expire_with(self._reserving)
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
        if self._queue_steps() >= self._max_queue_steps:
            raise Overloaded("Too many requests are waiting to be metered; please try again.")

    def _queue_steps(self) -> int:
        return self._queue.qsize() + len(self._waiting)

    def _run(self) -> None:
        while not self._stopped.is_set():
            self._land(self._take())
            if self._is_closing and self._queue.empty() and not self._waiting:
                break
        self._disconnect()
        self._abandon_queue()

    def _take(self) -> list[StepTicket]:
        """Take what has waited longest, up to a batch; nothing but `close` makes it return without a step."""
        if not self._waiting:
            return self._gather(None)
        return [self._waiting.popleft() for _ in range(min(len(self._waiting), self._max_batch_steps))]

    def _gather(self, timeout_s: float | None) -> list[StepTicket]:
        """Wait for a step or until the time is over, then take what is queued, up to a batch."""
        tickets: list[StepTicket] = []
        try:
            ticket = self._queue.get(timeout=timeout_s)
            while True:
                if ticket is not None:
                    tickets.append(ticket)
                if len(tickets) >= self._max_batch_steps:
                    break
                ticket = self._queue.get_nowait()
        except Empty:
            pass
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
                self._write_down(tickets)
                self._pause(backoff_s)
                if self._stopped.is_set():
                    deliver([(ticket, Overloaded("The service stopped.")) for ticket in tickets])
                    return
                backoff_s = min(backoff_s * 2, LAST_BACKOFF_S)
            else:
                self._finish(answers)
                self._failpoint(places.ANSWERED)
                return

    def _pause(self, pause_s: float) -> None:
        """Wait, or until the writer shall stop; what comes meanwhile is written down at once and lands later."""
        end_time = time.monotonic() + pause_s
        while not self._stopped.is_set() and (left_s := end_time - time.monotonic()) > 0:
            tickets = self._gather(left_s)
            self._waiting.extend(tickets)
            self._write_down(tickets)

    def _write_down(self, tickets: Sequence[StepTicket]) -> None:
        """Put ends that cannot land now into the journal; if that fails too, they are in memory only, as before."""
        ends = [(ticket, end) for ticket in tickets if not ticket.is_journaled and (end := ticket.owned_end())]
        if self._journal is None or not ends:
            return
        try:
            self._journal.append([end for _, end in ends])
        except OSError as error:
            logger.error("%d ends are in memory only; a crash would charge their holds: %s", len(ends), error)
            return
        for ticket, _ in ends:
            ticket.is_journaled = True
        self._journaled_ends += len(ends)

    def _strike_out(self, answers: Sequence[Answer]) -> None:
        """Empty the journal when the last end in it has landed."""
        self._journaled_ends -= sum(ticket.is_journaled for ticket, _ in answers)
        if self._journal is None or self._journaled_ends:
            return
        try:
            self._journal.clear()
        except OSError as error:
            logger.error("the journal cannot be emptied; its ends have landed: %s", error)

    def _finish(self, answers: list[Answer]) -> None:
        """Hand out what a batch was answered, but correct first what was recovered while its owner knew better."""
        again: list[StepTicket] = []
        if any(type(outcome) is ReservationClosed for _, outcome in answers):
            corrected = [(ticket, self._corrected(ticket, outcome)) for ticket, outcome in answers]
            again = [ticket for ticket, outcome in corrected if outcome is None]
            answers = [(ticket, outcome) for ticket, outcome in corrected if outcome is not None]
        self._hand_out(answers)
        if again:
            self._write_down(again)
            self._waiting.extend(again)
            self._pause(FIRST_BACKOFF_S)

    def _corrected(self, ticket: StepTicket, outcome: Outcome) -> Outcome | None:
        """Return what to answer, None when the step has to be tried again."""
        end = ticket.owned_end()
        if self._correct is None or end is None or not isinstance(outcome, ReservationClosed):
            return outcome
        if outcome.metadata["state"] != "recovered":
            return outcome
        try:
            return self._correct(end)
        except Overloaded:
            return None
        except Exception:
            logger.exception("the charge of %s cannot be corrected", end.request_id)
            return outcome

    def _hand_out(self, answers: Sequence[Answer]) -> None:
        deliver(answers)
        if self._journaled_ends:
            self._strike_out(answers)

    def _apply(self, tickets: Sequence[StepTicket]) -> list[Answer]:
        self._failpoint(places.TAKEN)
        self._in_hand = tickets
        self._begin_time = time.monotonic()
        try:
            if self._connection is None:
                self._connection = self._connect()
            outcomes = self._ledger.apply(self._connection, [ticket.step for ticket in tickets])
        finally:
            with self._hand:
                self._begin_time = None
        return list(zip(tickets, outcomes, strict=True))

    def _watch(self) -> None:
        """Write down what waits for a database that neither answers nor fails, which the writer's thread cannot do."""
        while not self._stopped.wait(WATCH_S):
            begin_time = self._begin_time
            if begin_time is not None and time.monotonic() - begin_time > STALL_S:
                self._rescue()

    def _rescue(self) -> int:
        """Write down what is in hand and a batch of what is queued, and return how many steps that took off the queue.

        Only while the writer's thread has a batch in hand, as it then touches nothing of what is touched here.
        """
        with self._hand:
            if self._begin_time is None:
                return 0
            tickets = self._gather(0)
            self._waiting.extend(tickets)
            self._write_down([*self._in_hand, *tickets])
            return len(tickets)

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
        self._hand_out([(tickets[0], QuillgateError("The step could not be recorded."))])

    def _abandon_queue(self) -> None:
        """Answer whatever cannot be landed any more, so that nobody waits for it; ends are left to the next start."""
        while tickets := [*self._waiting, *self._gather(0)]:
            self._waiting.clear()
            self._write_down(tickets)
            deliver([(ticket, Overloaded("The service stopped.")) for ticket in tickets])


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
