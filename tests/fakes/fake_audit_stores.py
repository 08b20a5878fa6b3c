"""The stores that an audit reads and writes, in memory: requests, days, and what was asked of them."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

from quillgate_core.adjustment import VOID, Adjustment, UnsureRow
from quillgate_core.counting import Usage, counted_messages
from quillgate_core.errors import ReservationNotFound
from quillgate_core.ledger_entry import CheckedDay, LedgerDay, LedgerEntry, RecordedAdjustment

TODAY = date(2030, 5, 9)
MOMENT = datetime(2030, 5, 8, 12, tzinfo=UTC)


def blocking(call: Callable[[], Any]) -> Awaitable[Any]:
    """Run a blocking call at once."""

    async def run() -> Any:
        return call()

    return run()


def entry(request_id: str = "r", **members: Any) -> LedgerEntry:
    """A settled request of yesterday that used 40,000 tokens, 10,000 of them cached, for 20,000: four messages."""
    values: dict[str, Any] = {
        "workspace_id": "ws",
        "day": MOMENT.date(),
        "state": "settled",
        "key_id": "key",
        "endpoint": "chat.completions",
        "model": "some/model",
        "upstream": "openrouter",
        "upstream_request_id": f"gen-{request_id}",
        "held_messages": 5,
        "charge": Adjustment(4, 40_000, 10_000, 20_000, 7),
        "usage_source": "provider",
        "usage_clamped": False,
        "byok": False,
        "overage_messages": 1,
        "outcome": "complete",
        "reserve_time": MOMENT,
        "settle_time": MOMENT + timedelta(seconds=2),
    }
    return LedgerEntry(request_id=request_id, **(values | members))


@dataclass
class FakeAuditStores:
    """Every store of an audit at once; `asked` is what was asked, in order."""

    entries: list[LedgerEntry] = field(default_factory=list)
    kept: list[date] = field(default_factory=lambda: [TODAY - timedelta(days=number) for number in (9, 1, 0)])
    checked: dict[date, CheckedDay] = field(default_factory=dict)
    asked: list[tuple[Any, ...]] = field(default_factory=list)
    failure: Exception | None = None

    def entry(self, request_id: str, workspace_id: str) -> LedgerEntry | None:
        """Find a workspace's request."""
        found = [
            entry for entry in self.entries if (entry.request_id, entry.workspace_id) == (request_id, workspace_id)
        ]
        return found[0] if found else None

    def entry_anywhere(self, request_id: str) -> LedgerEntry | None:
        """Find a request."""
        self.asked.append(("anywhere", request_id))
        return next((entry for entry in self.entries if entry.request_id == request_id), None)

    def asked_of(self, upstream: str, day: date, after: tuple[str, str], limit: int) -> list[LedgerEntry]:
        """Page through a day's requests of a provider."""
        self.asked.append(("page", upstream, day, after))
        found = [
            entry
            for entry in sorted(self.entries, key=lambda entry: (entry.workspace_id, entry.request_id))
            if (entry.upstream, entry.day) == (upstream, day) and (entry.workspace_id, entry.request_id) > after
        ]
        return found[:limit]

    def today(self) -> date:
        """The day of these stores."""
        return TODAY

    def days(self) -> list[LedgerDay]:
        """The days that are kept."""
        return [LedgerDay(day, 8_192, 3) for day in self.kept]

    def check(self, day: date, workspace_id: str) -> CheckedDay:
        """Answer as scripted, else that all agrees."""
        self.asked.append(("check", day, workspace_id))
        if self.failure is not None:
            raise self.failure
        return self.checked.get(day, CheckedDay(day, 2, 3))

    def drop(self, day: date, row_count: int) -> int:
        """Drop a day, or fail."""
        self.asked.append(("drop", day, row_count))
        if self.failure is not None:
            raise self.failure
        return row_count

    def unsure(self, providers: Any, limit: int) -> list[UnsureRow]:
        """Nothing is unsure."""
        return []

    def adjust(
        self, workspace_id: str, request_id: str, *, source: str, usage: Usage, cost_picodollars: int | None
    ) -> Adjustment:
        """Note the adjustment, or fail."""
        self.asked.append(("adjust", workspace_id, request_id, source, usage, cost_picodollars))
        if self.failure is not None:
            raise self.failure
        return Adjustment(counted_messages(usage), 0, 0, 0)

    def void(self, workspace_id: str, request_id: str, *, actor_key_id: str, note: str) -> Adjustment:
        """Add what makes a charge nothing."""
        found = self.entry(request_id, workspace_id)
        if found is None or not found.is_charged:
            raise ReservationNotFound(request_id)
        added = Adjustment(-4, -40_000, -10_000, -20_000, -7)
        recorded = RecordedAdjustment(VOID, added, MOMENT + timedelta(hours=1), actor_key_id, note)
        self.entries[self.entries.index(found)] = replace(found, adjustments=(*found.adjustments, recorded))
        return added
