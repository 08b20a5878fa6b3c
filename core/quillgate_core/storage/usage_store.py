"""Sums up what a workspace used: ledger rows and their adjustments, and `daily_usage` for days whose rows were dropped.

It reads as many rows as the days have, so it may take seconds. It writes nothing and takes no locks.
"""

from collections.abc import Sequence
from datetime import date
from typing import Final

from sqlalchemy import Engine, text

from quillgate_core.storage.long_read import long_read
from quillgate_core.usage_views import UsageDimension, UsageGroup

_COLUMNS: Final[dict[UsageDimension, str]] = {
    "key": "key_id",
    "model": "model",
    "endpoint": "endpoint",
    "upstream": "upstream",
    "day": "day",
}

_ENTRIES: Final = """
SELECT coalesce(key_id, '') AS key_id, model, endpoint, upstream, day,
       CASE WHEN byok THEN 0 ELSE counted_messages END AS message_count,
       CASE WHEN byok THEN counted_messages ELSE 0 END AS byok_message_count,
       prompt_tokens AS input_tokens, cached_tokens, completion_tokens AS output_tokens, 1 AS request_count,
       cost_picodollars::numeric AS cost_picodollars, (cost_picodollars IS NULL)::int AS unpriced_request_count
FROM ledger
WHERE workspace_id = :workspace_id AND day BETWEEN :start_day AND :end_day AND state IN ('settled', 'recovered')
UNION ALL
SELECT coalesce(l.key_id, ''), l.model, l.endpoint, l.upstream, l.day,
       CASE WHEN l.byok THEN 0 ELSE a.messages END, CASE WHEN l.byok THEN a.messages ELSE 0 END,
       a.input_tokens, a.cached_tokens, a.output_tokens, 0, a.cost,
       CASE WHEN l.cost_picodollars IS NULL AND a.cost IS NOT NULL THEN -1 ELSE 0 END
FROM (
    SELECT workspace_id, request_id, day, sum(counted_messages) AS messages, sum(prompt_tokens) AS input_tokens,
           sum(cached_tokens) AS cached_tokens, sum(completion_tokens) AS output_tokens, sum(cost_picodollars) AS cost
    FROM ledger_adjustments
    WHERE workspace_id = :workspace_id AND day BETWEEN :start_day AND :end_day
    GROUP BY workspace_id, request_id, day
) a
JOIN ledger l USING (workspace_id, request_id, day)
UNION ALL
SELECT key_id, model, endpoint, upstream, day, message_count, byok_message_count, input_tokens, cached_tokens,
       output_tokens, request_count, cost_picodollars, unpriced_request_count
FROM daily_usage
WHERE workspace_id = :workspace_id AND day BETWEEN :start_day AND :end_day
"""
"""One row a request, one a request that was adjusted, one a group of a dropped day. Its price is known once any is."""

_SUMS: Final = (
    "message_count",
    "byok_message_count",
    "input_tokens",
    "cached_tokens",
    "output_tokens",
    "request_count",
    "cost_picodollars",
    "unpriced_request_count",
)


_BLANKS: Final = {"key_id": "''", "model": "''", "endpoint": "''", "upstream": "''", "day": "CAST(NULL AS date)"}
"""What stands in the place of a column that is not asked for."""


class SqlUsageStore:
    """UsageStore in PostgreSQL; every method opens its own transaction."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def breakdown(
        self, workspace_id: str, start_day: date, end_day: date, *, dimensions: Sequence[UsageDimension], limit: int
    ) -> list[UsageGroup]:
        """The groups of the days from `start_day` to `end_day`, both included, those with most messages first.

        Groups with the same number of messages come in order of their names. Without dimensions there is one group,
        of nothing if nothing was used. Raises Overloaded, also when it takes more than 30 s.
        """
        parameters = {"workspace_id": workspace_id, "start_day": start_day, "end_day": end_day, "limit": limit}
        with long_read(self._engine) as connection:
            return [UsageGroup(*row) for row in connection.execute(text(_query(dimensions)), parameters)]


def _query(dimensions: Sequence[UsageDimension]) -> str:
    """Return the statement for some dimensions; nothing that a caller sent is put into it."""
    asked = [column for dimension, column in _COLUMNS.items() if dimension in dimensions]
    names = [column if column in asked else f"{blank} AS {column}" for column, blank in _BLANKS.items()]
    sums = [f"CAST(coalesce(sum({column}), 0) AS bigint) AS {column}" for column in _SUMS]
    group_by = f"GROUP BY {', '.join(asked)}" if asked else ""
    order = ", ".join(["g.message_count + g.byok_message_count DESC", *(f"g.{column}" for column in asked)])
    return f"""
SELECT g.key_id, coalesce(k.name, ''), g.model, g.endpoint, g.upstream, g.day,
       {", ".join(f"g.{name}" for name in _SUMS)}
FROM (SELECT {", ".join(names + sums)} FROM ({_ENTRIES}) entries {group_by}) g
LEFT JOIN keys k ON k.key_id = g.key_id AND k.workspace_id = :workspace_id
ORDER BY {order}
LIMIT :limit
"""  # noqa: S608
