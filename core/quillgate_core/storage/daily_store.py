"""Reads `daily_message_count` for reports and for what is left of a day. It writes nothing and takes no locks."""

from datetime import UTC, date, datetime, time, timedelta
from typing import Final, LiteralString

from sqlalchemy import BigInteger, Engine, cast, select, text

from quillgate_core.errors import WorkspaceNotFound
from quillgate_core.reservation import DailyCount, Today
from quillgate_core.storage.engine import database_errors, single_statements
from quillgate_core.storage.ledger_statements import DEFAULT_CLOCK
from quillgate_core.storage.tables import daily_message_count

DEFAULT_DAYS: Final = 30
MAX_ROWS: Final = 3_661

_TODAY = """
SELECT t.day, w.daily_message_allowance, w.monthly_message_allowance, w.at_allowance = 'allow', m.today, m.month
FROM (SELECT (clock_timestamp() AT TIME ZONE 'UTC')::date AS day OFFSET 0) t
JOIN workspaces w ON w.workspace_id = :workspace_id
CROSS JOIN LATERAL (
    SELECT coalesce(sum(d.message_count + d.held_messages) FILTER (WHERE d.day = t.day), 0)::bigint,
           coalesce(sum(d.message_count + d.held_messages), 0)::bigint
    FROM daily_message_count d
    WHERE d.workspace_id = w.workspace_id AND d.day BETWEEN date_trunc('month', t.day)::date AND t.day
) m(today, month)
"""


class SqlDailyStore:
    """The daily rows as they are committed now."""

    def __init__(self, engine: Engine, clock: LiteralString = DEFAULT_CLOCK) -> None:
        self._engine = single_statements(engine)
        self._today = text(_TODAY.replace(DEFAULT_CLOCK, clock))

    def daily(self, workspace_id: str, start_day: date | None, end_day: date | None) -> list[DailyCount]:
        """Rows of the days from `start_day` to `end_day`, both included, newest first, at most 3,661.

        Without `end_day` up to today by the database clock, without `start_day` from 30 days before the end.
        Raises WorkspaceNotFound when the end is to be looked up, and Overloaded.
        """
        end_day = end_day or self.today(workspace_id).day
        start_day = start_day or end_day - timedelta(days=DEFAULT_DAYS)
        table = daily_message_count
        query = (
            select(
                table.c.workspace_id,
                table.c.day,
                table.c.message_count,
                table.c.held_messages,
                table.c.input_tokens,
                table.c.cached_tokens,
                table.c.output_tokens,
                table.c.request_count,
                table.c.byok_message_count,
                table.c.byok_input_tokens,
                table.c.byok_output_tokens,
                table.c.byok_request_count,
                cast(table.c.cost_picodollars, BigInteger),
                cast(table.c.byok_cost_picodollars, BigInteger),
                table.c.unpriced_request_count,
                table.c.overage_message_count,
                table.c.overrun_message_count,
            )
            .where(table.c.workspace_id == workspace_id, table.c.day.between(start_day, end_day))
            .order_by(table.c.day.desc())
            .limit(MAX_ROWS)
        )
        with database_errors(), self._engine.connect() as connection:
            return [DailyCount(*row) for row in connection.execute(query)]

    def today(self, workspace_id: str) -> Today:
        """What is left today, and this month, by the database clock; raises WorkspaceNotFound and Overloaded."""
        with database_errors(), self._engine.connect() as connection:
            row = connection.execute(self._today, {"workspace_id": workspace_id}).one_or_none()
        if row is None:
            raise WorkspaceNotFound(workspace_id)
        day, allowance, monthly_allowance, allows_overage, used_today, used_in_month = row
        return Today(
            day=day,
            allowance=allowance,
            remaining_messages=_left(allowance, used_today),
            reset_time=datetime.combine(day + timedelta(days=1), time(), UTC),
            monthly_allowance=monthly_allowance,
            monthly_remaining_messages=_left(monthly_allowance, used_in_month),
            allows_overage=allows_overage,
        )


def _left(allowance: int | None, used_messages: int) -> int | None:
    return None if allowance is None else max(0, allowance - used_messages)
