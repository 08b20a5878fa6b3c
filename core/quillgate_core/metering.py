"""Metering: what a request may use, what it used, and what happens to it when nobody ends it.

Every request is reserved durably before its provider is asked and settled durably before its caller hears of the end.
The writer behind it makes each step happen exactly once. This use case checks what callers hand in and turns answers
into exceptions; it must not know SQL, threads or gRPC.
"""

import logging
import re
import threading
import time
from collections.abc import Callable
from datetime import date
from typing import Final, TypeVar

from quillgate_core.counting import Usage
from quillgate_core.errors import InvalidRequest, Overloaded
from quillgate_core.reservation import (
    DailyCount,
    DailyStore,
    Idempotency,
    KeyStale,
    LeaseStore,
    Note,
    Outcome,
    Receipt,
    Record,
    Release,
    Reservation,
    ReservationState,
    Reserve,
    Settle,
    Step,
    StepWriter,
    Today,
    UsageSource,
)
from quillgate_core.unbroken_lease import UnbrokenLease

__all__ = [
    "DailyCount",
    "KeyStale",
    "Metering",
    "Receipt",
    "Record",
    "Release",
    "Reservation",
    "ReservationState",
    "Reserve",
    "Settle",
    "Today",
    "Usage",
    "UsageSource",
]

logger = logging.getLogger(__name__)

ID_PATTERN: Final = re.compile(r"[!-~]{1,128}")
MAX_HOLD_MESSAGES: Final = 10**9
MAX_LIFETIME_S: Final = 86_400
RECOVER_LIMIT: Final = 500

Answer = TypeVar("Answer", Reservation, Receipt)


class Metering:
    """Reserves, settles, releases and records requests, and reads what was counted.

    `instance_id` names this core process: the owner of the rows that it serves itself, and of a lease that it renews.
    `idempotency` returns what the caller that is being served said about repeats, so that no endpoint can forget it.
    `clock` is monotonic, in seconds: by it this process knows for how long it has held its lease.
    The coroutines belong to any loop; the other methods block and belong to a thread.
    """

    def __init__(
        self,
        *,
        writer: StepWriter,
        daily_store: DailyStore,
        lease_store: LeaseStore,
        instance_id: str,
        idempotency: Callable[[], Idempotency | None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._writer = writer
        self._daily_store = daily_store
        self._lease_store = lease_store
        self._clock = clock
        self._has_lease = False
        self._renewing = threading.Lock()
        self._unbroken = UnbrokenLease(lease_store.lease_s)
        self.instance_id = instance_id
        self.current_idempotency = idempotency

    async def reserve(self, reserve: Reserve) -> Reservation:
        """Set messages aside, durably, before anything is dispatched.

        Raises AllowanceExhausted, WorkspaceNotFound, KeyInvalid, KeyStale (authenticate afresh, then reserve again),
        CredentialsStale (read the workspace's provider keys, choose anew, then reserve again), DuplicateRequest,
        DuplicateInProgress, AlreadyCompleted, IdempotencyMismatch, InvalidRequest and Overloaded.
        When this is cancelled or raises Overloaded, an owned row is released by itself, without charge, and its request
        id is spent; a row without owner may be reserved again with the same id. A `replayed` reservation belongs to
        another request: dispatch nothing for it.
        """
        _check_ids(reserve)
        if not 1 <= reserve.min_hold_messages <= reserve.hold_messages <= MAX_HOLD_MESSAGES:
            raise InvalidRequest("The messages to hold are out of range.", param="hold_messages")
        if not 1 <= reserve.expire_s <= MAX_LIFETIME_S:
            raise InvalidRequest(f"A reservation lives 1 to {MAX_LIFETIME_S} seconds.", param="expire_s")
        return _answer(await self._writer.submit(reserve).outcome(), Reservation)

    async def settle(self, settle: Settle) -> Receipt:
        """End a reservation with its usage; the first usage stands and is answered again to every repeat.

        Raises ReservationNotFound, also for a row of another owner, and ReservationClosed when it was released, or
        recovered without an owner (then the hold stays charged; with an owner the charge is corrected to the usage).
        Waits as long as the database is away; cancelled, it lands all the same.
        """
        _check_ids(settle)
        return _answer(await self._writer.submit(settle).outcome(), Receipt)

    async def release(self, release: Release) -> Receipt:
        """End a reservation without charge. Waits and raises as `settle` does; ReservationClosed if it was charged."""
        _check_ids(release)
        return _answer(await self._writer.submit(release).outcome(), Receipt)

    async def record(self, record: Record) -> Receipt:
        """Count a usage that is already known, even beyond the allowance; repeats get the first receipt.

        Raises WorkspaceNotFound, DuplicateRequest (the id belongs to a reservation that runs, or to another owner),
        ReservationClosed and Overloaded. Cancelled, it lands all the same.
        """
        _check_ids(record)
        return _answer(await self._writer.submit(record).outcome(), Receipt)

    def settle_nowait(self, settle: Settle) -> None:
        """Settle for a caller that is being cancelled: lands while the process lives, a refusal is only logged."""
        self._writer.post(settle)

    def note_nowait(self, note: Note) -> None:
        """Write down who serves an open reservation, in case this process dies before it settles."""
        self._writer.post(note)

    def release_nowait(self, release: Release) -> None:
        """Release for a caller that is being cancelled, as `settle_nowait` settles."""
        self._writer.post(release)

    def daily(
        self, workspace_id: str, *, start_day: date | None = None, end_day: date | None = None
    ) -> list[DailyCount]:
        """Read what a workspace used on each day of the range, newest first; days without a request are left out.

        `end_day` defaults to today by the database clock, `start_day` to 30 days before it. Blocking.
        """
        return self._daily_store.daily(workspace_id, start_day, end_day)

    def today(self, workspace_id: str) -> Today:
        """Read what a workspace has left today and when that resets. Blocking; raises WorkspaceNotFound."""
        return self._daily_store.today(workspace_id)

    def remaining(self, workspace_id: str) -> int | None:
        """Read the messages that are left today, None without a limit. Blocking; raises WorkspaceNotFound."""
        return self.today(workspace_id).remaining_messages

    def renew_lease(self) -> bool:
        """Say that this process lives, to be called at the start and every 10 s; blocking.

        False when the lease had run out meanwhile: rows that were open may have been recovered, and settling those
        corrects their charge. The lease holds again from now on. Raises Overloaded when the database is away.
        """
        with self._renewing:
            return self._renew_lease()

    def _renew_lease(self) -> bool:
        start_s = self._clock()
        was_held = self._lease_store.renew(self.instance_id)
        self._unbroken.renew(start_s, was_held=was_held)
        is_gapless = was_held or not self._has_lease
        self._has_lease = True
        if not is_gapless:
            logger.warning("the lease of %s had run out; its open reservations may be charged", self.instance_id)
        return is_gapless

    def end_lease(self) -> None:
        """Give the lease up at the end of the process, so that any core recovers what is left open at once."""
        with self._renewing:
            self._has_lease = False
            self._unbroken.end()
            try:
                self._lease_store.end(self.instance_id)
            except Overloaded:
                logger.warning("the lease of %s is left to run out: the database is away", self.instance_id)

    def recover(self) -> int:
        """Charge the holds of reservations whose owner is dead, or that expired, and return how many; blocking.

        Nothing is done until this process's own lease has been held for the length of a lease without a break: where
        the database was away for all, or all machines slept, the others get that time to come back and to land their
        ends. Any core may do it at any time, several at once. Raises Overloaded.
        """
        recovered = 0
        while self._may_judge():
            count = self._lease_store.recover(RECOVER_LIMIT)
            recovered += count
            if count < RECOVER_LIMIT:
                break
        return recovered

    def _may_judge(self) -> bool:
        """Say whether others are to be recovered, by a lease that is renewed just now: the database may know better."""
        with self._renewing:
            if self._has_lease:
                self._renew_lease()
            return self._unbroken.is_proven(self._clock())

    def recover_instance(self, instance_id: str) -> int:
        """Charge at once all holds of a core that is known to be dead, and return how many; blocking.

        Its lease ends with it. To be called when what it wrote down has landed. Raises Overloaded.
        """
        self._lease_store.end(instance_id)
        recovered = 0
        while count := self._lease_store.recover(RECOVER_LIMIT, owner=instance_id):
            recovered += count
        return recovered


def _answer(outcome: Outcome, kind: type[Answer]) -> Answer:
    if isinstance(outcome, Exception):
        try:
            raise outcome
        finally:
            del outcome  # its trace holds this frame: the request would wait for the garbage collector
    assert isinstance(outcome, kind)
    return outcome


def _check_ids(step: Step) -> None:
    """Refuse ids that cannot be stored or shown; raises InvalidRequest."""
    for param, value in (("request_id", step.request_id), ("workspace_id", step.workspace_id)):
        if ID_PATTERN.fullmatch(value) is None:
            raise InvalidRequest(f"{param} must have 1 to 128 visible ASCII characters.", param=param)
