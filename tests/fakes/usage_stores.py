"""UsageViews' surroundings without a database: groups and pages that a test lays out, and what was asked for."""

from collections.abc import Sequence
from datetime import date
from typing import Any

from fakes.step_writer import FakeDailyStore

from quillgate_core.errors import Overloaded, WorkspaceNotFound
from quillgate_core.reservation import Today
from quillgate_core.rpc.usage_views_service import UsageViewsService
from quillgate_core.usage_views import ExportPage, ExportPlace, ExportRow, UsageDimension, UsageGroup, UsageViews

DAY = date(2030, 1, 1)


def group(**fields: Any) -> UsageGroup:
    """A group of nothing but what is given."""
    names, sums = UsageGroup.__slots__[:5], UsageGroup.__slots__[6:]
    return UsageGroup(**{**dict.fromkeys(names, ""), "day": None, **dict.fromkeys(sums, 0), **fields})


def row(number: int, **fields: Any) -> ExportRow:
    """A settled row, told apart by its number."""
    blank = ExportRow("ws_1", f"req_{number}", "settled", "key_1", "chat.completions", "a/model", "openrouter", "", 2,
                      1, 10, 4, 5, "provider", False, False, 7, 0, "complete", number, number + 1)  # fmt: skip
    return blank._replace(**fields)


class FakeUsageStore:
    """Answers with as many of its groups as are asked for, and remembers the questions."""

    def __init__(self, groups: Sequence[UsageGroup] = ()) -> None:
        self.groups = groups
        self.asked: list[tuple[str, date, date, tuple[UsageDimension, ...], int]] = []

    def breakdown(
        self, workspace_id: str, start_day: date, end_day: date, *, dimensions: Sequence[UsageDimension], limit: int
    ) -> list[UsageGroup]:
        """Remember the question and answer."""
        self.asked.append((workspace_id, start_day, end_day, tuple(dimensions), limit))
        return list(self.groups[:limit])


class FakeExportStore:
    """One day's rows, `page_rows` at a time; fails at the page with the number `fails_at`."""

    def __init__(self, rows: Sequence[ExportRow] = (), *, page_rows: int = 2, fails_at: int | None = None) -> None:
        self.rows = rows
        self.adjustments: dict[Any, Any] = {}
        self.asked: list[tuple[ExportPlace, str | None, date]] = []
        self._page_rows = page_rows
        self._fails_at = fails_at

    def page(self, after: ExportPlace, *, workspace_id: str | None, end_day: date, limit: int) -> ExportPage | None:
        """Remember the question; the rows behind the place."""
        self.asked.append((after, workspace_id, end_day))
        if len(self.asked) - 1 == self._fails_at:
            raise Overloaded("away")
        left = [row for row in self.rows if (DAY, row.reserve_time_us) > (after.day, after.reserve_time_us)]
        return ExportPage(DAY, left[: self._page_rows], self.adjustments) if left else None


class FakeToday(FakeDailyStore):
    """A day of 2030, for every workspace but `nowhere`."""

    def today(self, workspace_id: str) -> Today:
        """What is left, as told."""
        if workspace_id == "nowhere":
            raise WorkspaceNotFound(workspace_id)
        return super().today(workspace_id)


def make_views(usage: FakeUsageStore | None = None, export: FakeExportStore | None = None) -> UsageViews:
    """The use case on stores of which a test may lay out any."""
    return UsageViews(usage or FakeUsageStore(), export or FakeExportStore(), FakeToday(None))


def make_views_service(usage: FakeUsageStore | None = None, export: FakeExportStore | None = None) -> UsageViewsService:
    """The service on the same."""

    async def blocking(call: Any) -> Any:
        return call()

    return UsageViewsService(make_views(usage, export), blocking)
