"""Days of the ledger as wholes: their sums are checked here, and the rows of old ones dropped once they are exported.

A day of many million rows takes a while, so its statements have two minutes instead of two seconds. Checking takes no
locks. Dropping locks the day's sums first, as whoever corrects a charge does, and the ledger itself only for its last
step.
"""

from datetime import date
from typing import Any, Final, LiteralString

from sqlalchemy import Connection, Engine, text

from quillgate_core.errors import LedgerDayKept
from quillgate_core.ledger_entry import CheckedDay, LedgerDay, LedgerDiscrepancy
from quillgate_core.storage.daily_lock import lock_days
from quillgate_core.storage.day_check_sql import CHECK_DAY, ROLL_UP
from quillgate_core.storage.engine import database_errors
from quillgate_core.storage.ledger_days import REMEMBER_DAYS, partition
from quillgate_core.storage.ledger_statements import DEFAULT_CLOCK

DAY_TIMEOUT_MS: Final = 120_000
MAX_DISCREPANCIES: Final = 1_000

_TODAY: Final = "SELECT (clock_timestamp() AT TIME ZONE 'UTC')::date"

_DAY_TIMEOUT: Final = text(f"SET LOCAL statement_timeout = {DAY_TIMEOUT_MS}")

_DAYS: Final = text("""
SELECT to_date(right(c.relname, 8), 'YYYYMMDD') AS day, pg_total_relation_size(c.oid),
       greatest(0, c.reltuples)::bigint
FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = 'ledger'::regclass AND c.relname ~ '^ledger_[0-9]{8}$'
ORDER BY 1
""")

_CHECK_DAY: Final = text(CHECK_DAY)

_WORKSPACES_OF_DAY: Final = text("SELECT workspace_id FROM daily_message_count WHERE day = :day")

_COUNT_ROWS: Final = text("SELECT count(*), count(*) FILTER (WHERE state = 'open') FROM ledger WHERE day = :day")

_ROLL_UP: Final = text(ROLL_UP)

_DROP_ADJUSTMENTS: Final = text("DELETE FROM ledger_adjustments WHERE day = :day")


class SqlLedgerDayStore:
    """LedgerDayStore in PostgreSQL; `clock` is the SQL expression of the time, for tests to replace."""

    def __init__(self, engine: Engine, clock: LiteralString = DEFAULT_CLOCK) -> None:
        self._engine = engine
        self._today = text(_TODAY.replace(DEFAULT_CLOCK, clock))

    def today(self) -> date:
        """Return the UTC date by the database clock; raises Overloaded."""
        with database_errors(), self._engine.connect() as connection:
            return self._read_today(connection)

    def days(self) -> list[LedgerDay]:
        """Return the days whose rows are kept, oldest first; row counts are the server's estimates.

        Raises Overloaded.
        """
        with database_errors(), self._engine.connect() as connection:
            return _days(connection)

    def check(self, day: date, workspace_id: str) -> CheckedDay:
        """Hold each sum of a day against its rows and their adjustments, of one workspace or, if empty, of all.

        Raises Overloaded, also when it takes longer than two minutes.
        """
        parameters = {"day": day, "workspace_id": workspace_id, "limit": MAX_DISCREPANCIES}
        with database_errors(), self._engine.begin() as connection:
            connection.execute(_DAY_TIMEOUT)
            rows = connection.execute(_CHECK_DAY, parameters).all()
        workspace_count, row_count, *_ = rows[0]
        found = tuple(LedgerDiscrepancy(*row[2:]) for row in rows if row[2] is not None)
        return CheckedDay(day, workspace_count, row_count, found)

    def drop(self, day: date, row_count: int) -> int:
        """Drop a day's rows and adjustments, keep their breakdown in `daily_usage`, and return how many rows they were.

        All or nothing; 0 when they are gone already. Raises LedgerDayKept for a day that is less than 8 days ago, has
        open rows, or has another number of rows than `row_count`; and Overloaded, when trying again may help.
        """
        with database_errors(), self._engine.begin() as connection:
            connection.execute(_DAY_TIMEOUT)
            if (self._read_today(connection) - day).days <= REMEMBER_DAYS:
                raise LedgerDayKept(
                    f"The rows of {day} are kept: request ids are remembered for {REMEMBER_DAYS} days.",
                    day=day.isoformat(),
                    cause="recent",
                )
            if all(kept.day != day for kept in _days(connection)):
                return 0
            workspace_ids = connection.execute(_WORKSPACES_OF_DAY, {"day": day}).scalars()
            lock_days(connection, ((workspace_id, day) for workspace_id in workspace_ids))
            _refuse_unless_exported(connection, day, row_count)
            connection.execute(_ROLL_UP, {"day": day})
            connection.execute(_DROP_ADJUSTMENTS, {"day": day})
            connection.execute(text(f"ALTER TABLE ledger DETACH PARTITION {partition(day)}"))
            connection.execute(text(f"DROP TABLE {partition(day)}"))
            return row_count

    def _read_today(self, connection: Connection) -> date:
        today: date = connection.execute(self._today).scalar_one()
        return today


def _days(connection: Connection) -> list[LedgerDay]:
    return [LedgerDay(*row) for row in connection.execute(_DAYS)]


def _refuse_unless_exported(connection: Connection, day: date, row_count: int) -> None:
    found: Any = connection.execute(_COUNT_ROWS, {"day": day}).one()
    if found[1]:
        raise LedgerDayKept(
            f"The rows of {day} are kept: {found[1]} of them are still open.", day=day.isoformat(), cause="open_rows"
        )
    if found[0] != row_count:
        raise LedgerDayKept(
            f"The rows of {day} are kept: there are {found[0]}, but {row_count} were exported.",
            day=day.isoformat(),
            cause="row_count",
        )
