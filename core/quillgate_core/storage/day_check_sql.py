"""The statement that holds a day's sums against its ledger rows; constants only.

It is one statement, so that it sees one moment of a ledger that goes on. The rows are first summed by what is told
apart below, in one pass that needs no index and can run in parallel; all that follows works on those few sums.
"""

from typing import Final

_WORKSPACE_COLUMNS: Final = {
    "message_count": "sum(counted_messages) FILTER (WHERE NOT byok)",
    "held_messages": "sum(held_messages) FILTER (WHERE NOT byok AND state = 'open')",
    "input_tokens": "sum(prompt_tokens) FILTER (WHERE NOT byok)",
    "cached_tokens": "sum(cached_tokens) FILTER (WHERE NOT byok)",
    "output_tokens": "sum(completion_tokens) FILTER (WHERE NOT byok)",
    "request_count": "sum(row_count) FILTER (WHERE NOT byok AND state IN ('settled', 'recovered'))",
    "byok_message_count": "sum(counted_messages) FILTER (WHERE byok)",
    "byok_input_tokens": "sum(prompt_tokens) FILTER (WHERE byok)",
    "byok_output_tokens": "sum(completion_tokens) FILTER (WHERE byok)",
    "byok_request_count": "sum(row_count) FILTER (WHERE byok AND state IN ('settled', 'recovered'))",
    "cost_picodollars": "sum(cost_picodollars) FILTER (WHERE NOT byok)",
    "byok_cost_picodollars": "sum(cost_picodollars) FILTER (WHERE byok)",
    "unpriced_request_count": "sum(unpriced_count)",
    "overage_message_count": "sum(overage_messages) FILTER (WHERE NOT byok)",
    "overrun_message_count": "sum(overrun_messages) FILTER (WHERE NOT byok AND state = 'settled')",
}
"""What each column of a workspace's day is the sum of."""

_KEY_COLUMNS: Final = {
    "message_count": "sum(counted_messages) FILTER (WHERE NOT byok)",
    "held_messages": "sum(held_messages) FILTER (WHERE NOT byok AND state = 'open')",
    "input_tokens": "sum(prompt_tokens)",
    "cached_tokens": "sum(cached_tokens)",
    "output_tokens": "sum(completion_tokens)",
    "request_count": "sum(row_count) FILTER (WHERE state IN ('settled', 'recovered'))",
    "byok_message_count": "sum(counted_messages) FILTER (WHERE byok)",
    "open_requests": "sum(row_count) FILTER (WHERE state = 'open')",
}
"""What each column of a key's day is the sum of."""


def _sums(columns: dict[str, str]) -> str:
    return ", ".join(f"coalesce({total}, 0) AS {name}" for name, total in columns.items())


def _pairs(columns: dict[str, str]) -> str:
    return ", ".join(f"('{name}', d.{name}::numeric, s.{name}::numeric)" for name in columns)


CHECK_DAY: Final = f"""
WITH entries AS MATERIALIZED (
    SELECT workspace_id, key_id, byok, state, count(*) AS row_count, sum(held_messages) AS held_messages,
           sum(counted_messages) AS counted_messages, sum(prompt_tokens) AS prompt_tokens,
           sum(cached_tokens) AS cached_tokens, sum(completion_tokens) AS completion_tokens,
           sum(cost_picodollars) AS cost_picodollars, sum(overage_messages) AS overage_messages,
           sum(greatest(0, counted_messages - held_messages)) AS overrun_messages,
           count(*) FILTER (WHERE state IN ('settled', 'recovered') AND cost_picodollars IS NULL) AS unpriced_count
    FROM ledger WHERE day = :day AND (:workspace_id = '' OR workspace_id = :workspace_id)
    GROUP BY 1, 2, 3, 4
    UNION ALL
    SELECT workspace_id, key_id, byok, 'adjusted', 0, 0, counted_messages, prompt_tokens, cached_tokens,
           completion_tokens, cost_picodollars, 0, 0, -priced_count
    FROM (
        SELECT a.workspace_id, l.key_id, l.byok, sum(a.counted_messages) AS counted_messages,
               sum(a.prompt_tokens) AS prompt_tokens, sum(a.cached_tokens) AS cached_tokens,
               sum(a.completion_tokens) AS completion_tokens, sum(a.cost_picodollars) AS cost_picodollars,
               count(DISTINCT (a.workspace_id, a.request_id)) FILTER (
                   WHERE l.cost_picodollars IS NULL AND a.cost_picodollars IS NOT NULL
               ) AS priced_count
        FROM ledger_adjustments a JOIN ledger l USING (workspace_id, request_id, day)
        WHERE a.day = :day AND (:workspace_id = '' OR a.workspace_id = :workspace_id)
        GROUP BY 1, 2, 3
    ) adjustments
), workspace_sums AS (
    SELECT workspace_id, {_sums(_WORKSPACE_COLUMNS)} FROM entries GROUP BY 1
), key_sums AS (
    SELECT key_id, min(workspace_id) AS workspace_id, {_sums(_KEY_COLUMNS)}
    FROM entries WHERE key_id IS NOT NULL GROUP BY 1
), workspace_days AS (
    SELECT * FROM daily_message_count WHERE day = :day AND (:workspace_id = '' OR workspace_id = :workspace_id)
), key_days AS (
    SELECT * FROM key_daily_message_count WHERE day = :day AND (:workspace_id = '' OR workspace_id = :workspace_id)
), compared AS (
    SELECT workspace_id, '' AS key_id, v.*
    FROM workspace_days d FULL JOIN workspace_sums s USING (workspace_id),
         LATERAL (VALUES {_pairs(_WORKSPACE_COLUMNS)}) AS v(name, daily_value, ledger_value)
    UNION ALL
    SELECT coalesce(d.workspace_id, s.workspace_id), key_id, v.*
    FROM key_days d FULL JOIN key_sums s USING (key_id),
         LATERAL (VALUES {_pairs(_KEY_COLUMNS)}) AS v(name, daily_value, ledger_value)
), found AS (
    SELECT workspace_id, key_id, name, coalesce(daily_value, 0)::bigint AS daily_value,
           coalesce(ledger_value, 0)::bigint AS ledger_value
    FROM compared WHERE coalesce(daily_value, 0) <> coalesce(ledger_value, 0)
    ORDER BY 1, 2, 3 LIMIT :limit
)
SELECT t.workspace_count, t.row_count, f.*
FROM (
    SELECT (SELECT count(*) FROM workspace_days FULL JOIN workspace_sums USING (workspace_id)) AS workspace_count,
           (SELECT coalesce(sum(row_count), 0)::bigint FROM entries) AS row_count
) t LEFT JOIN found f ON true
ORDER BY 3, 4, 5
"""  # noqa: S608 - only constants are put in
"""A row for each discrepancy with the day's totals beside it; one row of totals and nulls where everything agrees."""

ROLL_UP: Final = """
INSERT INTO daily_usage (
    workspace_id, day, key_id, model, endpoint, upstream, message_count, byok_message_count, input_tokens,
    cached_tokens, output_tokens, request_count, cost_picodollars, unpriced_request_count
)
SELECT workspace_id, :day, coalesce(key_id, ''), model, endpoint, upstream,
       coalesce(sum(counted_messages) FILTER (WHERE NOT byok), 0),
       coalesce(sum(counted_messages) FILTER (WHERE byok), 0), sum(prompt_tokens), sum(cached_tokens),
       sum(completion_tokens), sum(request_count), coalesce(sum(cost_picodollars), 0), sum(unpriced_count)
FROM (
    SELECT workspace_id, key_id, model, endpoint, upstream, byok, sum(counted_messages) AS counted_messages,
           sum(prompt_tokens) AS prompt_tokens, sum(cached_tokens) AS cached_tokens,
           sum(completion_tokens) AS completion_tokens, sum(cost_picodollars) AS cost_picodollars,
           count(*) AS request_count, count(*) FILTER (WHERE cost_picodollars IS NULL) AS unpriced_count
    FROM ledger WHERE day = :day AND state IN ('settled', 'recovered')
    GROUP BY 1, 2, 3, 4, 5, 6
    UNION ALL
    SELECT a.workspace_id, l.key_id, l.model, l.endpoint, l.upstream, l.byok, sum(a.counted_messages),
           sum(a.prompt_tokens), sum(a.cached_tokens), sum(a.completion_tokens), sum(a.cost_picodollars), 0,
           -count(DISTINCT (a.workspace_id, a.request_id)) FILTER (
               WHERE l.cost_picodollars IS NULL AND a.cost_picodollars IS NOT NULL
           )
    FROM ledger_adjustments a JOIN ledger l USING (workspace_id, request_id, day)
    WHERE a.day = :day
    GROUP BY 1, 2, 3, 4, 5, 6
) entries
GROUP BY 1, 3, 4, 5, 6
"""
"""A day's breakdown, adjustments included, of what was charged."""
