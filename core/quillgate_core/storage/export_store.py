"""Reads the ledger page by page, in an order that does not change: by day, time of reservation, workspace, request id.

That is about the order in which rows lie on disk, whatever callers make their request ids of: by the primary key, each
row would be a page of its own to read. It writes nothing and takes no locks.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, Final, cast

from sqlalchemy import Connection, Engine, text

from quillgate_core.storage.long_read import long_read
from quillgate_core.usage_views import ExportAdjustment, ExportPage, ExportPlace, ExportRow

_PAGE: Final = """
SELECT workspace_id, request_id, state, coalesce(key_id, ''), endpoint, model, upstream, upstream_request_id,
       held_messages, counted_messages, prompt_tokens, cached_tokens, completion_tokens, usage_source, usage_clamped,
       byok, cost_picodollars, overage_messages, outcome, CAST(date_part('epoch', reserve_time) * 1000000 AS bigint),
       coalesce(CAST(date_part('epoch', settle_time) * 1000000 AS bigint), 0)
FROM ledger
WHERE day = :day AND reserve_time >= :reserve_time
  AND (reserve_time, workspace_id, request_id) > (:reserve_time, :after_workspace_id, :request_id) {and_own}
ORDER BY reserve_time, workspace_id, request_id
LIMIT :limit
"""
"""`date_part` is a double: exact to the microsecond until the year 2200, and much faster than `extract`'s numeric."""

_EVERYBODY: Final = text(_PAGE.format(and_own=""))
_ONE_WORKSPACE: Final = text(_PAGE.format(and_own="AND workspace_id = :workspace_id"))

_NEXT_DAY: Final = text("""
SELECT min(day)
FROM (
    SELECT to_date(right(c.relname, 8), 'YYYYMMDD') AS day
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = CAST('ledger' AS regclass)
) kept
WHERE day > :day
""")

_HAS_ADJUSTMENTS: Final = text("SELECT EXISTS (SELECT FROM ledger_adjustments WHERE day = :day)")

_ADJUSTMENTS: Final = text("""
SELECT a.workspace_id, a.request_id, a.source, a.counted_messages, a.prompt_tokens, a.cached_tokens,
       a.completion_tokens, a.cost_picodollars, a.create_time, coalesce(a.actor_key_id, ''), a.note
FROM unnest(CAST(:workspace_ids AS text[]), CAST(:request_ids AS text[])) AS page (workspace_id, request_id)
JOIN ledger_adjustments a USING (workspace_id, request_id)
WHERE a.day = :day
ORDER BY a.create_time, a.source
""")


class SqlExportStore:
    """ExportStore in PostgreSQL; every page is a transaction of its own, read whole before it is returned."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def page(self, after: ExportPlace, *, workspace_id: str | None, end_day: date, limit: int) -> ExportPage | None:
        """The next rows behind a place, at most `limit` of one day, of one workspace or of all; None at the end.

        A day whose rows were dropped meanwhile has none. Raises Overloaded, also when a page takes more than 30 s.
        """
        with long_read(self._engine) as connection:
            place: ExportPlace | None = after
            while place is not None and place.day <= end_day:
                rows = _rows(connection, place, workspace_id, limit)
                if rows:
                    return ExportPage(place.day, rows, _adjustments(connection, place.day, rows))
                place = _next_day(connection, place.day)
            return None


def _rows(connection: Connection, after: ExportPlace, workspace_id: str | None, limit: int) -> list[ExportRow]:
    parameters = {
        "day": after.day,
        "reserve_time": after.reserve_time,
        "after_workspace_id": after.workspace_id,
        "request_id": after.request_id,
        "workspace_id": workspace_id,
        "limit": limit,
    }
    statement = _EVERYBODY if workspace_id is None else _ONE_WORKSPACE
    result = connection.execute(statement, parameters)
    assert result.cursor is not None
    # The driver's own tuples: the rows are here already, and wrapping each of them takes as long as fetching it.
    return cast("list[ExportRow]", result.cursor.fetchall())


def _next_day(connection: Connection, day: date) -> ExportPlace | None:
    """Return the place before the first row of the next day that is kept."""
    found = connection.execute(_NEXT_DAY, {"day": day}).scalar_one()
    return None if found is None else ExportPlace(found)


def _adjustments(
    connection: Connection, day: date, rows: Sequence[ExportRow]
) -> Mapping[tuple[str, str], Sequence[ExportAdjustment]]:
    found: dict[tuple[str, str], list[ExportAdjustment]] = defaultdict(list)
    if connection.execute(_HAS_ADJUSTMENTS, {"day": day}).scalar_one():
        parameters: dict[str, Any] = {
            "day": day,
            "workspace_ids": [row[0] for row in rows],
            "request_ids": [row[1] for row in rows],
        }
        for workspace_id, request_id, *columns in connection.execute(_ADJUSTMENTS, parameters):
            found[workspace_id, request_id].append(ExportAdjustment(*columns))
    return found
