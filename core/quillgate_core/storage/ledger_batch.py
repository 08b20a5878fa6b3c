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
    DuplicateRequest,
    KeyInvalid,
    ReservationClosed,
    ReservationNotFound,
    WorkspaceDisabled,
    WorkspaceNotFound,
)
from quillgate_core.limits import LimitState
from quillgate_core.reservation import (
    CredentialsStale,
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
from quillgate_core.storage.claims import Claims, claim_refusal
from quillgate_core.storage.key_account import KeyDayRow, KeyState
from quillgate_core.storage.ledger_rows import (
    Claim,
    DailyRow,
    LedgerRow,
    add_charge,
    plain_text,
)
from quillgate_core.storage.workspace_account import MessageLimit, PeriodEnds, WorkspaceState, message_limits


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
        self._ends = PeriodEnds.of(day)
        self._workspaces = workspaces
        self._key_states = key_states
        self._daily_rows = {(row.workspace_id, row.day): row for row in daily_rows}
        self._rows = {(row.workspace_id, row.request_id): row for row in rows}
        self._claims = Claims(claims)
        self._changed: dict[tuple[str, str], LedgerRow] = {}
        self._key_days: dict[tuple[str, date], KeyDayRow] = {}
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

    @property
    def changed_key_days(self) -> list[KeyDayRow]:
        """The changes of keys' days, sorted: all processes write them in one order."""
        return [self._key_days[key] for key in sorted(self._key_days)]

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
        key = self._key_states[step.key_id] if step.key_id is not None else None
        if key is not None and (refused := key.refusal(self.now, min_tokens=step.min_hold_tokens)) is not None:
            return refused
        limits = list(message_limits(self._workspaces[step.workspace_id], key, daily_row, self._ends))
        left_messages = step.hold_messages
        if not step.byok:
            for limit in limits:
                if limit.is_binding and limit.left < step.min_hold_messages:
                    return self._exhausted(step.workspace_id, limit)
                left_messages = min(left_messages, limit.left) if limit.is_binding else left_messages
        row = self._open(step, daily_row, key, held_messages=left_messages)
        taken = 0 if step.byok else left_messages
        states = [limit.after(taken) for limit in limits]
        if key is not None:
            states.extend(key.rates(self.now))
        return self._reservation(row, key, states, is_replayed=False)

    def _open(self, step: Reserve, daily_row: DailyRow, key: KeyState | None, *, held_messages: int) -> LedgerRow:
        row = self._new_row(step, held_messages=held_messages)
        if step.idempotency is not None:
            self._claims.add(row, step.idempotency)
        if step.owner is None:
            row.expire_time = self.now + timedelta(seconds=step.expire_s)
        row.byok = step.byok
        if not step.byok:
            daily_row.held_messages += held_messages
            daily_row.used_messages += held_messages
            daily_row.is_changed = True
        if key is not None:
            tokens_left = key.tokens_left(self.now)
            row.held_tokens = 0 if tokens_left is None else min(step.hold_tokens, tokens_left)
            key.enter(self.now, held_tokens=row.held_tokens)
            key.hold(0 if step.byok else held_messages, day=self.day, today=self.day)
        self._note_open(row, opened=1)
        return row

    def _repeated(self, step: Reserve, row: LedgerRow) -> Reservation | Exception:
        if step.owner is None and row.owner is not None:
            return DuplicateRequest(step.request_id)
        return self._reservation(row, None, (), is_replayed=row.nonce != step.nonce)

    def _refusal(self, step: Reserve) -> Exception | None:
        workspace = self._workspaces.get(step.workspace_id)
        if workspace is None:
            return WorkspaceNotFound(step.workspace_id)
        if workspace.is_disabled:
            return WorkspaceDisabled(step.workspace_id)
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
        claim = self._claims.find(step.workspace_id, step.idempotency)
        if claim is None:
            return None
        return claim_refusal(claim, self._rows.get((claim.workspace_id, claim.request_id)), step.idempotency)

    def _exhausted(self, workspace_id: str, limit: MessageLimit) -> AllowanceExhausted:
        reset_time = limit.reset_time.isoformat().replace("+00:00", "Z")
        whose = "workspace's allowance" if "allowance" in limit.name else "key's limit"
        left = max(0, limit.left)
        return AllowanceExhausted(
            "You exceeded your current quota, please check your plan and billing details. "
            f"The {whose} is {limit.value} messages a {'month' if 'monthly' in limit.name else 'day'} and {left} are "
            f"left; it resets at {reset_time}.",
            workspace_id=workspace_id,
            limit=limit.name,
            allowance=limit.value,
            remaining_messages=left,
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
            row = self._new_row(step, held_messages=0)
            self._note_open(row, opened=1)
            self._charge(row, step)
        if row.state == "open" or row.owner != step.owner:
            return DuplicateRequest(step.request_id)
        if row.state != "settled":
            return ReservationClosed(step.request_id, row.state)
        return self._receipt(row)

    def _new_row(self, step: Reserve | Record, *, held_messages: int) -> LedgerRow:
        row = LedgerRow(
            step.workspace_id,
            step.request_id,
            self.day,
            "open",
            step.owner,
            step.nonce,
            held_messages,
            key_id=step.key_id,
            endpoint=plain_text(step.endpoint),
            model=plain_text(step.model),
            upstream=plain_text(step.upstream),
            reserve_s=int(self.now.timestamp()),
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
        if not row.byok:
            beyond = self._workspaces[row.workspace_id].overage(daily_row, today=self.day)
            row.overage_messages = min(row.counted_messages, beyond)
            daily_row.overage_message_count += row.overage_messages
        self._charge_key(row)

    def _charge_key(self, row: LedgerRow) -> None:
        if row.key_id is None:
            return
        key_day = self._key_day(row)
        key_day.input_tokens += row.prompt_tokens
        key_day.cached_tokens += row.cached_tokens
        key_day.output_tokens += row.completion_tokens
        key_day.request_count += 1
        if row.byok:
            key_day.byok_message_count += row.counted_messages
        else:
            key_day.message_count += row.counted_messages
        key = self._key_states.get(row.key_id)
        if key is not None:
            key.hold(0 if row.byok else row.counted_messages, day=row.day, today=self.day)
            if row.day == self.day:
                key.correct(self.now, row.reserve_s, tokens=row.prompt_tokens + row.completion_tokens)

    def _note_open(self, row: LedgerRow, *, opened: int) -> None:
        """Count a row of a key as open (1), or not any more (-1), with what it holds."""
        if row.key_id is None:
            return
        key_day = self._key_day(row)
        key_day.open_requests += opened
        if not row.byok:
            key_day.held_messages += opened * row.held_messages

    def _key_day(self, row: LedgerRow) -> KeyDayRow:
        """Return the changes of a row's key on its day; a window that changes goes with today's."""
        assert row.key_id is not None
        found = self._key_days.get((row.key_id, row.day))
        if found is None:
            found = self._key_days[row.key_id, row.day] = KeyDayRow(row.key_id, row.day, row.workspace_id)
        key = self._key_states.get(row.key_id)
        if key is not None and key.has_window and row.day == self.day:
            found.request_window = key.minute(self.now).numbers
        return found

    def _end(self, row: LedgerRow, *, state: ReservationState, outcome: str) -> DailyRow:
        daily_row = self._locked(row.workspace_id, row.day)
        if not row.byok:
            daily_row.held_messages -= row.held_messages
            daily_row.used_messages -= row.held_messages
            workspace = self._workspaces[row.workspace_id]
            workspace.end(row.day, held=row.held_messages, counted=row.counted_messages, today=self.day)
        daily_row.is_changed = True
        self._note_open(row, opened=-1)
        self._leave(row)
        row.state = state
        row.outcome = plain_text(outcome)
        if row.is_stored:
            self._changed[row.workspace_id, row.request_id] = row
        return daily_row

    def _leave(self, row: LedgerRow) -> None:
        """Give back to the key, as far as this batch knows it, what the row had held of its limits."""
        key = self._key_states.get(row.key_id) if row.key_id is not None else None
        if key is None:
            return
        key.open_requests -= 1
        key.hold(0 if row.byok else -row.held_messages, day=row.day, today=self.day)
        if row.day == self.day:
            key.correct(self.now, row.reserve_s, tokens=-row.held_tokens)

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

    def _reservation(
        self, row: LedgerRow, key: KeyState | None, states: Iterable[LimitState], *, is_replayed: bool
    ) -> Reservation:
        return Reservation(
            row.workspace_id,
            row.request_id,
            row.day,
            row.held_messages,
            row.state,
            self._remaining_messages(row.workspace_id, self.day),
            is_replayed,
            self._workspaces[row.workspace_id].allowance,
            tuple(states),
            row.held_tokens if key is not None and key.tokens_per_minute is not None else None,
            row.key_id,
            row.model,
            key.revision if key is not None else 0,
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
            overage_messages=row.overage_messages,
        )
