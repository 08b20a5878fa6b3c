"""What was used, for people and their spreadsheets: groups of requests, and the ledger row by row.

It checks what may be asked and reads it from a store; it must not know SQL, threads or gRPC. Nothing here takes a lock
or changes anything.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final, Literal, NamedTuple, Protocol

from quillgate_core.errors import InvalidRequest
from quillgate_core.reservation import DailyStore, ReservationState, UsageSource

MAX_DAYS: Final = 366
DEFAULT_DAYS: Final = 30
DEFAULT_GROUPS: Final = 100
MAX_GROUPS: Final = 10_000
_MAX_CURSOR_CHARACTERS: Final = 1_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

UsageDimension = Literal["key", "model", "endpoint", "upstream", "day"]


@dataclass(frozen=True, slots=True)
class UsageGroup:
    """What was used in one group of requests that ended; names are empty, and the day None, unless asked for.

    Tokens, requests and costs (at list price, in picodollars) are those of both kinds of messages.
    """

    key_id: str
    key_name: str
    model: str
    endpoint: str
    upstream: str
    day: date | None
    message_count: int
    byok_message_count: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    request_count: int
    cost_picodollars: int
    unpriced_request_count: int


@dataclass(frozen=True, slots=True)
class ExportPlace:
    """A ledger row's place in the order of an export; as it is by default, the place before a day's first row."""

    day: date
    reserve_time_us: int = 0
    workspace_id: str = ""
    request_id: str = ""

    @property
    def reserve_time(self) -> datetime:
        """When the row was reserved, exactly."""
        return _EPOCH + timedelta(microseconds=self.reserve_time_us)

    def cursor(self) -> str:
        """Return the opaque text that stands for this place."""
        text = json.dumps([self.day.isoformat(), self.reserve_time_us, self.workspace_id, self.request_id])
        return base64.urlsafe_b64encode(text.encode()).decode()


class ExportRow(NamedTuple):
    """A row of the ledger as stores return it: a plain tuple in this order, since making an object costs more."""

    workspace_id: str
    request_id: str
    state: ReservationState
    key_id: str
    endpoint: str
    model: str
    upstream: str
    upstream_request_id: str
    held_messages: int
    counted_messages: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    usage_source: UsageSource
    usage_clamped: bool
    byok: bool
    cost_picodollars: int | None
    overage_messages: int
    outcome: str
    reserve_time_us: int
    settle_time_us: int
    """0: it is open."""


@dataclass(frozen=True, slots=True)
class ExportAdjustment:
    """What was added to a row's charge later."""

    source: str
    counted_messages: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    cost_picodollars: int | None
    create_time: datetime
    actor_key_id: str
    note: str


@dataclass(frozen=True, slots=True)
class ExportPage:
    """Rows of one day, at least one, and the adjustments of those that have any, oldest first."""

    day: date
    rows: Sequence[ExportRow]
    adjustments: Mapping[tuple[str, str], Sequence[ExportAdjustment]]
    """By workspace and request id."""

    def place(self, row: ExportRow) -> ExportPlace:
        """Return where one of its rows stands."""
        workspace_id, request_id, reserve_time_us = row[0], row[1], row[19]
        return ExportPlace(self.day, reserve_time_us, workspace_id, request_id)


class UsageStore(Protocol):
    """Sums up the ledger."""

    def breakdown(
        self, workspace_id: str, start_day: date, end_day: date, *, dimensions: Sequence[UsageDimension], limit: int
    ) -> list[UsageGroup]:
        """The groups of the days from `start_day` to `end_day`, those with most messages first; raises Overloaded."""


class ExportStore(Protocol):
    """Reads the ledger by day, time of reservation, workspace and request id."""

    def page(self, after: ExportPlace, *, workspace_id: str | None, end_day: date, limit: int) -> ExportPage | None:
        """The next rows behind a place, of one workspace or of all; None at the end. Raises Overloaded."""


class UsageViews:
    """Reads groups and pages; every method blocks and belongs to a thread."""

    def __init__(self, usage_store: UsageStore, export_store: ExportStore, daily_store: DailyStore) -> None:
        self._usage_store = usage_store
        self._export_store = export_store
        self._daily_store = daily_store

    def breakdown(
        self,
        workspace_id: str,
        *,
        start_day: date | None = None,
        end_day: date | None = None,
        dimensions: Sequence[UsageDimension] = (),
        limit: int = 0,
    ) -> tuple[list[UsageGroup], bool]:
        """Return at most `limit` groups (0: 100), those with most messages first, and whether there are more.

        Without `end_day` up to today by the database clock, without `start_day` from 30 days before the end.
        Raises InvalidRequest, WorkspaceNotFound and Overloaded.
        """
        if not 0 <= limit <= MAX_GROUPS:
            raise _invalid("limit", f"'limit' must be between 1 and {MAX_GROUPS}.")
        if len(set(dimensions)) != len(dimensions):
            raise _invalid("dimensions", "'dimensions' must name each dimension once.")
        limit = limit or DEFAULT_GROUPS
        today = self._daily_store.today(workspace_id).day
        end = end_day or today
        start = start_day or max(end, date.min + timedelta(DEFAULT_DAYS)) - timedelta(DEFAULT_DAYS)
        if start > end or end - start > timedelta(MAX_DAYS):
            raise _invalid("start_day", f"start_day must be at most {MAX_DAYS} days before end_day, and not after it.")
        groups = self._usage_store.breakdown(workspace_id, start, end, dimensions=dimensions, limit=limit + 1)
        return groups[:limit], len(groups) > limit

    def export_range(
        self, workspace_id: str | None, *, start_day: date | None, end_day: date | None, cursor: str
    ) -> tuple[ExportPlace, date]:
        """Return the place that an export starts behind, and its last day.

        Raises InvalidRequest, WorkspaceNotFound for a workspace that does not exist, and Overloaded.
        """
        if start_day and end_day and start_day > end_day:
            raise _invalid("start_day", "start_day must not be after end_day.")
        place = parse_cursor(cursor) if cursor else ExportPlace(start_day or date.min)
        if start_day and place.day < start_day:
            place = ExportPlace(start_day)
        if workspace_id is not None:
            today = self._daily_store.today(workspace_id).day
            end_day = end_day or today
        return place, end_day or date.max

    def export_page(
        self, after: ExportPlace, *, workspace_id: str | None, end_day: date, limit: int
    ) -> ExportPage | None:
        """Return the next rows behind a place, None at the end. Raises Overloaded.

        It is a short transaction of its own: however slow the reader is, nothing stays open between two pages.
        """
        return self._export_store.page(after, workspace_id=workspace_id, end_day=end_day, limit=limit)


def parse_cursor(cursor: str) -> ExportPlace:
    """Read a cursor that we gave out; raises InvalidRequest for anything else."""
    try:
        if len(cursor) > _MAX_CURSOR_CHARACTERS:
            raise ValueError
        day, reserve_time_us, *ids = json.loads(base64.b64decode(cursor, altchars=b"-_", validate=True))
        workspace_id, request_id = ids
        place = ExportPlace(date.fromisoformat(day), reserve_time_us, workspace_id, request_id)
        if type(reserve_time_us) is not int or place.cursor() != cursor or "\0" in workspace_id + request_id:
            raise ValueError
        place.reserve_time  # noqa: B018 - raises for a time that is none
    except (ValueError, TypeError, OverflowError, RecursionError):
        raise _invalid("cursor", "The cursor is not one that was returned here.") from None
    return place


def _invalid(param: str, message: str) -> InvalidRequest:
    return InvalidRequest(message, param=param, code="invalid_value")
