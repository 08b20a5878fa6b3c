"""Decides what a batch of steps does to the ledger, from what one transaction read under its locks.

Pure folding, in order: two reserves of one workspace in a batch see each other. It must not do I/O; `ledger.py` reads
the input, writes `inserts`, `changed` and the changed daily rows, and commits before anybody sees an outcome.
"""

from collections.abc import Iterable, Mapping
from datetime import date, datetime, timedelta
from typing import assert_never

from quillgate_core.counting import Usage, counted_messages, sane
from quillgate_core.errors import (
    AllowanceExhausted,
    AlreadyCompleted,
    DuplicateInProgress,
    DuplicateRequest,
    IdempotencyMismatch,
    KeyInvalid,
    ReservationClosed,
    ReservationNotFound,
    WorkspaceNotFound,
)
from quillgate_core.reservation import (
    CredentialsStale,
    Idempotency,
    KeyStale,
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
)
from quillgate_core.storage.ledger_rows import (
    Claim,
    DailyRow,
    KeyState,
    LedgerRow,
    WorkspaceState,
    add_charge,
    plain_text,
)


class LockMissing(Exception):
    """A step touches a row whose day was not locked: look the days up and start again."""


class LedgerBatch:
    """One transaction's worth of steps: `day` and `now` are the database clock's after the locks were taken."""

    def __init__(
        self,
        *,
        now: datetime,
        day: date,
        workspaces: Mapping[str, WorkspaceState],
        key_states: Mapping[str, KeyState],
        daily_rows: Iterable[DailyRow],
        rows: Iterable[LedgerRow],
        claims: Iterable[Claim] = (),
    ) -> None:
        self.now = now
        self.day = day
        self._workspaces = workspaces
        self._key_states = key_states
        self._daily_rows = {(row.workspace_id, row.day): row for row in daily_rows}
        self._rows = {(row.workspace_id, row.request_id): row for row in rows}
        self._claims = {(claim.workspace_id, claim.idempotency_key): claim for claim in claims}
        self._changed: dict[tuple[str, str], LedgerRow] = {}
        self.inserts: list[LedgerRow] = []

    @property
    def locked_days(self) -> set[tuple[str, date]]:
        """Workspaces and days whose daily rows exist and are locked."""
        return set(self._daily_rows)

    @property
    def changed(self) -> list[LedgerRow]:
        """The stored rows to update: those that ended, and those with a note."""
        return list(self._changed.values())

    @property
    def changed_days(self) -> list[DailyRow]:
        """The daily rows to update, with the sums of their changes."""
        return [row for row in self._daily_rows.values() if row.is_changed]

    def decide(self, step: Step) -> Outcome:
        """Answer one step and note its effect; raises LockMissing when the batch must be read again."""
        if isinstance(step, Reserve):
            return self._reserve(step)
        if isinstance(step, Settle):
            return self._settle(step)
        if isinstance(step, Note):
            return self._note(step)
        if isinstance(step, Release):
            return self._release(step)
        if isinstance(step, Record):
            return self._record(step)
        assert_never(step)

    def _reserve(self, step: Reserve) -> Reservation | Exception:
        row = self._rows.get((step.workspace_id, step.request_id))
        if row is not None:
            return self._repeated(step, row)
        refusal = self._refusal(step) or self._claimed(step)
        if refusal is not None:
            return refusal
        daily_row = self._locked(step.workspace_id, self.day)
        held_messages = step.hold_messages
        allowance = self._workspaces[step.workspace_id].allowance
        if allowance is not None and not step.byok:
            left_messages = allowance - daily_row.used_messages
            if left_messages < step.min_hold_messages:
                return self._exhausted(step.workspace_id, allowance, max(0, left_messages))
            held_messages = min(held_messages, left_messages)
        row = self._new_row(step, state="open", held_messages=held_messages)
        if step.idempotency is not None:
            self._claim(row, step.idempotency)
        if step.owner is None:
            row.expire_time = self.now + timedelta(seconds=step.expire_s)
        row.byok = step.byok
        if not step.byok:
            daily_row.held_messages += held_messages
            daily_row.used_messages += held_messages
            daily_row.is_changed = True
        return self._reservation(row, is_replayed=False)

    def _repeated(self, step: Reserve, row: LedgerRow) -> Reservation | Exception:
        if step.owner is None and row.owner is not None:
            return DuplicateRequest(step.request_id)
        return self._reservation(row, is_replayed=row.nonce != step.nonce)

    def _refusal(self, step: Reserve) -> Exception | None:
        workspace = self._workspaces.get(step.workspace_id)
        if workspace is None:
            return WorkspaceNotFound(step.workspace_id)
        return self._key_refusal(step) or (
            CredentialsStale() if step.credential_revision not in (None, workspace.credential_revision) else None
        )

    def _key_refusal(self, step: Reserve) -> Exception | None:
        if step.key_id is None:
            return None
        key_state = self._key_states.get(step.key_id)
        if key_state is None or not key_state.live or key_state.workspace_id != step.workspace_id:
            return KeyInvalid()
        if step.key_revision is not None and step.key_revision != key_state.revision:
            return KeyStale()
        return None

    def _claimed(self, step: Reserve) -> Exception | None:
        """Refuse an idempotency key that a row has which is not released; a released row frees it."""
        if step.idempotency is None:
            return None
        claim = self._claims.get((step.workspace_id, step.idempotency.key))
        if claim is None:
            return None
        row = self._rows.get((claim.workspace_id, claim.request_id))
        state = claim.state if row is None else row.state
        if state == "released" and row is not None and not row.is_stored:
            return None
        if claim.request_hash != step.idempotency.request_hash:
            return IdempotencyMismatch(claim.request_id)
        # A row that this very batch releases keeps the key until the commit: the unique index would see both.
        is_ended = state in ("settled", "recovered")
        return AlreadyCompleted(claim.request_id) if is_ended else DuplicateInProgress(claim.request_id)

    def _claim(self, row: LedgerRow, idempotency: Idempotency) -> None:
        row.idempotency_key = idempotency.key
        row.request_hash = f"\\x{idempotency.request_hash.hex()}"
        self._claims[row.workspace_id, idempotency.key] = Claim(
            row.workspace_id, idempotency.key, row.request_id, row.state, idempotency.request_hash
        )

    def _exhausted(self, workspace_id: str, allowance: int, remaining_messages: int) -> AllowanceExhausted:
        reset_time = f"{self.day + timedelta(days=1)}T00:00:00Z"
        return AllowanceExhausted(
            "You exceeded your current quota, please check your plan and billing details. "
            f"The workspace's allowance is {allowance} messages a day and {remaining_messages} are left; "
            f"it resets at {reset_time}.",
            workspace_id=workspace_id,
            allowance=allowance,
            remaining_messages=remaining_messages,
            reset_time=reset_time,
        )

    def _settle(self, step: Settle) -> Receipt | Exception:
        row = self._rows.get((step.workspace_id, step.request_id))
        if row is None or row.owner != step.owner:
            return ReservationNotFound(step.request_id)
        if row.state == "open":
            self._name_upstream(row, step)
            self._charge(row, step)
        if row.state != "settled":
            return ReservationClosed(step.request_id, row.state)
        return self._receipt(row)

    def _note(self, step: Note) -> Receipt | Exception:
        row = self._rows.get((step.workspace_id, step.request_id))
        if row is None or row.owner != step.owner or row.state != "open":
            return ReservationNotFound(step.request_id)
        self._name_upstream(row, step)
        if row.is_stored:
            self._changed[row.workspace_id, row.request_id] = row
        return Receipt(row.workspace_id, row.request_id, row.day, 0, Usage(), "", None)

    def _name_upstream(self, row: LedgerRow, step: Settle | Note) -> None:
        row.upstream = plain_text(step.upstream) or row.upstream
        row.upstream_request_id = plain_text(step.upstream_request_id) or row.upstream_request_id

    def _release(self, step: Release) -> Receipt | Exception:
        row = self._rows.get((step.workspace_id, step.request_id))
        if row is None or row.owner != step.owner or step.nonce not in (None, row.nonce):
            return ReservationNotFound(step.request_id)
        if row.state == "open":
            self._end(row, state="released", outcome=step.outcome)
        if row.state != "released":
            return ReservationClosed(step.request_id, row.state)
        return self._receipt(row)

    def _record(self, step: Record) -> Receipt | Exception:
        row = self._rows.get((step.workspace_id, step.request_id))
        if row is None:
            if step.workspace_id not in self._workspaces:
                return WorkspaceNotFound(step.workspace_id)
            row = self._new_row(step, state="open", held_messages=0)
            self._charge(row, step)
        if row.state == "open" or row.owner != step.owner:
            return DuplicateRequest(step.request_id)
        if row.state != "settled":
            return ReservationClosed(step.request_id, row.state)
        return self._receipt(row)

    def _new_row(self, step: Reserve | Record, *, state: ReservationState, held_messages: int) -> LedgerRow:
        row = LedgerRow(
            step.workspace_id,
            step.request_id,
            self.day,
            state,
            step.owner,
            step.nonce,
            held_messages,
            key_id=step.key_id,
            endpoint=plain_text(step.endpoint),
            model=plain_text(step.model),
            upstream=plain_text(step.upstream),
        )
        self._rows[step.workspace_id, step.request_id] = row
        self.inserts.append(row)
        return row

    def _charge(self, row: LedgerRow, step: Settle | Record) -> None:
        usage, row.usage_clamped = sane(step.usage)
        row.counted_messages = counted_messages(usage)
        row.prompt_tokens = usage.prompt_tokens
        row.cached_tokens = usage.cached_tokens
        row.completion_tokens = usage.completion_tokens
        row.usage_source = step.usage_source
        daily_row = self._end(row, state="settled", outcome=step.outcome)
        if isinstance(step, Settle):
            row.byok = row.byok or step.byok
            row.cost_picodollars = step.cost_picodollars
        add_charge(daily_row, row, usage)

    def _end(self, row: LedgerRow, *, state: ReservationState, outcome: str) -> DailyRow:
        daily_row = self._locked(row.workspace_id, row.day)
        if not row.byok:
            daily_row.held_messages -= row.held_messages
            daily_row.used_messages -= row.held_messages
        daily_row.is_changed = True
        row.state = state
        row.outcome = plain_text(outcome)
        if row.is_stored:
            self._changed[row.workspace_id, row.request_id] = row
        return daily_row

    def _locked(self, workspace_id: str, day: date) -> DailyRow:
        daily_row = self._daily_rows.get((workspace_id, day))
        if daily_row is None:
            raise LockMissing
        return daily_row

    def _remaining_messages(self, workspace_id: str, day: date) -> int | None:
        allowance = self._workspaces[workspace_id].allowance
        if allowance is None:
            return None
        return max(0, allowance - self._locked(workspace_id, day).used_messages)

    def _reservation(self, row: LedgerRow, *, is_replayed: bool) -> Reservation:
        return Reservation(
            row.workspace_id,
            row.request_id,
            row.day,
            row.held_messages,
            row.state,
            self._remaining_messages(row.workspace_id, self.day),
            is_replayed,
            self._workspaces[row.workspace_id].allowance,
        )

    def _receipt(self, row: LedgerRow) -> Receipt:
        return Receipt(
            row.workspace_id,
            row.request_id,
            row.day,
            row.counted_messages,
            Usage(row.prompt_tokens, row.cached_tokens, row.completion_tokens),
            row.usage_source,
            self._remaining_messages(row.workspace_id, row.day),
            byok=row.byok,
            cost_picodollars=row.cost_picodollars,
            allowance_messages=self._workspaces[row.workspace_id].allowance,
        )
