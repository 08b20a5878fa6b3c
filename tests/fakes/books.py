"""The ledger as an auditor sees it: makes workspaces and keys, reads rows, and checks that the sums agree."""

from datetime import date, timedelta
from typing import Any

from sqlalchemy import Engine, text

_SUMS = {
    "message_count": "sum(counted_messages) FILTER (WHERE NOT byok AND state <> 'open')",
    "held_messages": "sum(held_messages) FILTER (WHERE NOT byok AND state = 'open')",
    "input_tokens": "sum(prompt_tokens) FILTER (WHERE NOT byok)",
    "cached_tokens": "sum(cached_tokens) FILTER (WHERE NOT byok)",
    "output_tokens": "sum(completion_tokens) FILTER (WHERE NOT byok)",
    "request_count": "count(*) FILTER (WHERE NOT byok AND is_charge)",
    "byok_message_count": "sum(counted_messages) FILTER (WHERE byok AND state <> 'open')",
    "byok_input_tokens": "sum(prompt_tokens) FILTER (WHERE byok)",
    "byok_output_tokens": "sum(completion_tokens) FILTER (WHERE byok)",
    "byok_request_count": "count(*) FILTER (WHERE byok AND is_charge)",
    "cost_picodollars": "sum(cost_picodollars) FILTER (WHERE NOT byok)",
    "byok_cost_picodollars": "sum(cost_picodollars) FILTER (WHERE byok)",
    "unpriced_request_count": "sum(unpriced)",
    "overage_message_count": "sum(overage_messages) FILTER (WHERE NOT byok)",
    "overrun_message_count": "sum(greatest(0, counted_messages - held_messages))"
    " FILTER (WHERE NOT byok AND state = 'settled')",
}
"""What each column of a workspace's day is the sum of: the ledger's rows and their adjustments."""

_KEY_SUMS = {
    "message_count": "sum(counted_messages) FILTER (WHERE NOT byok AND state <> 'open')",
    "held_messages": "sum(held_messages) FILTER (WHERE NOT byok AND state = 'open')",
    "input_tokens": "sum(prompt_tokens)",
    "cached_tokens": "sum(cached_tokens)",
    "output_tokens": "sum(completion_tokens)",
    "request_count": "count(*) FILTER (WHERE is_charge)",
    "byok_message_count": "sum(counted_messages) FILTER (WHERE byok AND state <> 'open')",
    "open_requests": "count(*) FILTER (WHERE state = 'open')",
}
"""What each column of a key's day is the sum of."""

_ENTRIES = """
WITH entries AS (
    SELECT workspace_id, day, key_id, state, byok, held_messages, counted_messages, prompt_tokens, cached_tokens,
           completion_tokens, cost_picodollars, overage_messages, state IN ('settled', 'recovered') AS is_charge,
           (state IN ('settled', 'recovered') AND cost_picodollars IS NULL AND NOT EXISTS (
               SELECT FROM ledger_adjustments a
               WHERE a.workspace_id = l.workspace_id AND a.request_id = l.request_id AND a.cost_picodollars IS NOT NULL
           ))::int AS unpriced
    FROM ledger l
    UNION ALL
    SELECT a.workspace_id, a.day, l.key_id, 'adjustment', l.byok, 0, a.counted_messages, a.prompt_tokens,
           a.cached_tokens, a.completion_tokens, a.cost_picodollars, 0, false, 0
    FROM ledger_adjustments a JOIN ledger l USING (workspace_id, request_id, day)
)
"""


def _disagreements(table: str, owner: str, sums: dict[str, str]) -> str:
    """The query for the daily rows of workspaces or keys that are not the sums of their entries.

    Days whose rows were dropped are left out: only their sums are kept.
    """
    return f"""
{_ENTRIES}
SELECT {owner}, day, d, l FROM (
    SELECT {owner}, day, ROW({", ".join(f"{name}::numeric" for name in sums)})::text AS d FROM {table}
) d FULL JOIN (
    SELECT {owner}, day, ROW({", ".join(f"coalesce({total}, 0)::numeric" for total in sums.values())})::text AS l
    FROM entries WHERE {owner} IS NOT NULL GROUP BY 1, 2
) l USING ({owner}, day)
WHERE coalesce(d, ROW({", ".join("0" for _ in sums)})::text) <> coalesce(l, ROW({", ".join("0" for _ in sums)})::text)
  AND to_regclass('ledger_' || to_char(day, 'YYYYMMDD')) IS NOT NULL
"""


class Books:
    """One database's metering tables."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def run(self, statement: str, **parameters: object) -> None:
        """Run one statement in its own transaction."""
        with self.engine.begin() as connection:
            connection.execute(text(statement), parameters)

    def read(self, query: str, **parameters: object) -> list[Any]:
        """Read all rows of a query."""
        with self.engine.connect() as connection:
            return list(connection.execute(text(query), parameters))

    def add_workspace(self, workspace_id: str = "ws", *, allowance: int | None = None) -> None:
        """Make a workspace."""
        self.run(
            "INSERT INTO workspaces (workspace_id, name, daily_message_allowance) VALUES (:id, :id, :allowance)",
            id=workspace_id,
            allowance=allowance,
        )

    def add_key(self, key_id: str, *, workspace_id: str = "ws", expire_time: str | None = None) -> None:
        """Make a key without a secret, at revision 1; `expire_time` as PostgreSQL reads it."""
        self.run(
            "INSERT INTO keys (key_id, workspace_id, name, scopes, allowed_models, expire_time) "
            "VALUES (:id, :workspace_id, :id, '{inference}', '{}', CAST(:expire_time AS timestamptz))",
            id=key_id,
            workspace_id=workspace_id,
            expire_time=expire_time,
        )

    def add_ledger_day(self, day: date) -> None:
        """Make the partition of a day, for a test that writes rows itself."""
        name, end = f"ledger_{day:%Y%m%d}", day + timedelta(days=1)
        self.run(f"CREATE TABLE {name} PARTITION OF ledger FOR VALUES FROM ('{day}') TO ('{end}')")

    def row(self, request_id: str, workspace_id: str = "ws") -> Any:
        """The ledger row of a request."""
        query = "SELECT * FROM ledger WHERE workspace_id = :workspace_id AND request_id = :request_id"
        return self.read(query, workspace_id=workspace_id, request_id=request_id)[0]

    def day(self, day: date | None = None, workspace_id: str = "ws") -> Any:
        """The daily row of a day, or the only one there is."""
        query = (
            "SELECT * FROM daily_message_count WHERE workspace_id = :id AND (CAST(:day AS date) IS NULL OR day = :day)"
        )
        (row,) = self.read(query, id=workspace_id, day=day)
        return row

    def states(self) -> dict[str, int]:
        """How many ledger rows are in each state."""
        return {row[0]: row[1] for row in self.read("SELECT state, count(*) FROM ledger GROUP BY 1")}

    def check(self) -> None:
        """Assert that each daily row, of a workspace and of a key, is exactly the sum of its ledger rows."""
        assert self.read(_disagreements("daily_message_count", "workspace_id", _SUMS)) == []
        assert self.read(_disagreements("key_daily_message_count", "key_id", _KEY_SUMS)) == []
