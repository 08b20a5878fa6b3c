"""The ledger as an auditor sees it: requests, days, and where sums do not agree. Pure declarations."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Protocol

from quillgate_core.adjustment import VOID, Adjustment
from quillgate_core.counting import Count, Usage, explain
from quillgate_core.reservation import ReservationState, UsageSource


@dataclass(frozen=True, slots=True)
class RecordedAdjustment:
    """What was added to a charge later, by whom and when."""

    source: str
    added: Adjustment
    create_time: datetime
    actor_key_id: str = ""
    """The key of the admin who voided it; empty: nobody did."""
    note: str = ""


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One request as it is recorded, and what was learnt of it later, oldest first."""

    workspace_id: str
    request_id: str
    day: date
    state: ReservationState
    key_id: str
    """Empty: metered by an internal service for its own users."""
    endpoint: str
    model: str
    upstream: str
    upstream_request_id: str
    held_messages: int
    charge: Adjustment
    """What was charged when it ended, without adjustments."""
    usage_source: UsageSource
    usage_clamped: bool
    byok: bool
    overage_messages: int
    outcome: str
    reserve_time: datetime
    settle_time: datetime | None
    adjustments: Sequence[RecordedAdjustment] = ()

    @property
    def is_charged(self) -> bool:
        """Whether it ended with a charge."""
        return self.state in ("settled", "recovered")

    @property
    def is_void(self) -> bool:
        """Whether an admin has made its charge nothing."""
        return any(adjustment.source == VOID for adjustment in self.adjustments)

    def charged(self) -> Adjustment:
        """Return what it is charged now, adjustments included."""
        charges = [self.charge, *(adjustment.added for adjustment in self.adjustments)]
        costs = [charge.cost_picodollars for charge in charges if charge.cost_picodollars is not None]
        return Adjustment(
            sum(charge.counted_messages for charge in charges),
            sum(charge.prompt_tokens for charge in charges),
            sum(charge.cached_tokens for charge in charges),
            sum(charge.completion_tokens for charge in charges),
            sum(costs) if costs else None,
        )

    def usage(self) -> Usage:
        """Return what it used, adjustments included."""
        charged = self.charged()
        return Usage(charged.prompt_tokens, charged.cached_tokens, charged.completion_tokens)

    def count(self) -> Count | None:
        """Explain the charge by the usage; None where it follows from something else: a hold, a void, seconds."""
        is_hold = self.usage_source == "hold" and not self.adjustments
        count = explain(self.usage())
        fits = self.is_charged and not is_hold and count.counted_messages == self.charged().counted_messages
        return count if fits else None


@dataclass(frozen=True, slots=True)
class LedgerDiscrepancy:
    """A column of a daily row that is not the sum of the ledger's; `key_id` is empty for the workspace's own row."""

    workspace_id: str
    key_id: str
    column: str
    daily_value: int
    ledger_value: int


@dataclass(frozen=True, slots=True)
class CheckedDay:
    """What one day's comparison found; at most 1,000 discrepancies."""

    day: date
    workspace_count: int
    row_count: int
    discrepancies: Sequence[LedgerDiscrepancy] = ()


@dataclass(frozen=True, slots=True)
class LedgerDay:
    """A day whose rows are kept."""

    day: date
    size_bytes: int
    estimated_row_count: int


class EntryStore(Protocol):
    """Reads requests of the ledger, one by one or along a day; blocking."""

    def entry(self, request_id: str, workspace_id: str) -> LedgerEntry | None:
        """Returns a workspace's request."""

    def entry_anywhere(self, request_id: str) -> LedgerEntry | None:
        """Returns the newest request of that id, whatever its workspace."""

    def asked_of(self, upstream: str, day: date, after: tuple[str, str], limit: int) -> list[LedgerEntry]:
        """Returns charged requests of a day that the provider can be asked about, behind a workspace and id."""


class LedgerDayStore(Protocol):
    """Compares, lists and drops days; blocking."""

    def today(self) -> date:
        """Returns the UTC date by the database clock."""

    def days(self) -> list[LedgerDay]:
        """Returns the days whose rows are kept, oldest first."""

    def check(self, day: date, workspace_id: str) -> CheckedDay:
        """Compares a day's sums with its rows; an empty workspace is all."""

    def drop(self, day: date, row_count: int) -> int:
        """Drops a day's rows and returns how many they were."""


class VoidStore(Protocol):
    """The ledger as far as an admin may change it; blocking."""

    def void(self, workspace_id: str, request_id: str, *, actor_key_id: str, note: str) -> Adjustment:
        """Makes a charge nothing, once, and returns what was added."""
