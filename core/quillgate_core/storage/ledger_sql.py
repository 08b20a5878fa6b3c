"""The ledger's statements, each prepared once per connection and day; constants only.

Every transaction runs them in this order: make missing daily rows, lock the daily rows in sorted order, read everything
else, write. Under READ COMMITTED each statement sees what was committed before it began, so what is read after the
locks is what the locks protect. `clock_timestamp()` is replaced where a test brings its own clock; `now()` would be the
transaction's start and is never used. `{rows}` stands for what holds the rows of the days that matter, and `{today}`
and `{day}` for partitions.
"""

from typing import Final

SESSION: Final = b"""
SET application_name = 'quillgate writer';
SET jit = off;
SET plan_cache_mode = force_generic_plan;
SET enable_seqscan = off;
SET enable_hashjoin = off;
SET enable_mergejoin = off
"""
"""Settings of the writer's connection beside those of every connection."""

TODAY: Final = "SELECT (clock_timestamp() AT TIME ZONE 'UTC')::date"

ENSURE_DAILY_ROWS: Final = b"""
INSERT INTO daily_message_count (workspace_id, day)
SELECT w.workspace_id, $1::date FROM workspaces w WHERE w.workspace_id = ANY($2::text[]) ORDER BY w.workspace_id
ON CONFLICT DO NOTHING
"""

LOCK_DAILY_ROWS: Final = b"""
SELECT d.workspace_id, d.day, d.message_count + d.held_messages, d.message_count
FROM unnest($1::text[], $2::date[]) AS k(workspace_id, day), LATERAL (
    SELECT * FROM daily_message_count d WHERE d.workspace_id = k.workspace_id AND d.day = k.day FOR UPDATE
) d
"""
"""Locks in the order of the parameters, which the caller sorts."""

READ_WORKSPACES: Final = """
SELECT c.now, (c.now AT TIME ZONE 'UTC')::date, w.workspace_id, w.daily_message_allowance, w.credential_revision,
       w.monthly_message_allowance, w.at_allowance = 'allow', w.disable_time IS NOT NULL, m.used, m.counted
FROM (SELECT clock_timestamp() AS now OFFSET 0) c
LEFT JOIN workspaces w ON w.workspace_id = ANY($1::text[])
LEFT JOIN LATERAL (
    SELECT coalesce(sum(d.message_count + d.held_messages), 0)::bigint, coalesce(sum(d.message_count), 0)::bigint
    FROM daily_message_count d
    WHERE w.monthly_message_allowance IS NOT NULL AND d.workspace_id = w.workspace_id AND d.day >= $2 AND d.day < $3
) m(used, counted) ON true
"""
"""Reads the clock, and workspaces with what the days of the month before today have used, where that is limited."""

READ_KEYS: Final = """
SELECT k.key_id, k.workspace_id, k.revision,
       k.revoke_time IS NULL AND (k.expire_time IS NULL OR k.expire_time > clock_timestamp()),
       k.daily_messages, k.monthly_messages, k.requests_per_minute, k.tokens_per_minute, k.concurrent_requests,
       u.today, u.month, u.open, CASE WHEN k.requests_per_minute IS NOT NULL OR k.tokens_per_minute IS NOT NULL THEN (
           SELECT d.request_window FROM key_daily_message_count d
           WHERE d.key_id = k.key_id AND d.day BETWEEN $3::date AND $2::date AND d.request_window IS NOT NULL
           ORDER BY d.day DESC LIMIT 1
       ) END
FROM keys k LEFT JOIN LATERAL (
    SELECT coalesce(sum(d.message_count + d.held_messages) FILTER (WHERE d.day = $2::date), 0)::bigint,
           coalesce(sum(d.message_count + d.held_messages) FILTER (WHERE d.day >= $4::date), 0)::bigint,
           coalesce(sum(d.open_requests), 0)::bigint
    FROM key_daily_message_count d
    WHERE num_nonnulls(k.daily_messages, k.monthly_messages, k.concurrent_requests) > 0
      AND d.key_id = k.key_id AND d.day BETWEEN least($4::date, $3::date) AND $2::date
) u(today, month, open) ON true
WHERE k.key_id = ANY($1::text[])
"""

READ_ROWS: Final = """
SELECT l.workspace_id, l.request_id, l.day, l.state, l.owner, l.nonce, l.held_messages, l.counted_messages,
       l.prompt_tokens, l.cached_tokens, l.completion_tokens, l.usage_source, l.byok, l.cost_picodollars, l.key_id,
       l.held_tokens, l.overage_messages, floor(extract(epoch FROM l.reserve_time))::bigint
FROM unnest($1::text[], $2::text[]) AS k(workspace_id, request_id), LATERAL (
    SELECT * FROM {rows} l WHERE l.workspace_id = k.workspace_id AND l.request_id = k.request_id OFFSET 0
) l
"""

READ_CLAIMS: Final = """
SELECT l.workspace_id, l.idempotency_key, l.request_id, l.state, l.request_hash
FROM unnest($1::text[], $2::text[]) AS k(workspace_id, idempotency_key), LATERAL (
    SELECT * FROM {rows} l
    WHERE l.workspace_id = k.workspace_id AND l.idempotency_key = k.idempotency_key AND l.state <> 'released' OFFSET 0
) l
"""
"""Reads which rows have an idempotency key; within a day, a unique index stands behind it."""

FIND_DAYS: Final = """
SELECT l.workspace_id, l.day
FROM unnest($1::text[], $2::text[]) AS k(workspace_id, request_id), LATERAL (
    SELECT * FROM {rows} l WHERE l.workspace_id = k.workspace_id AND l.request_id = k.request_id OFFSET 0
) l
"""

WRITE: Final = """
WITH p AS (SELECT $1::timestamptz AS now), inserted AS (
    INSERT INTO {today} (
        workspace_id, request_id, day, state, owner, nonce, held_messages, counted_messages, prompt_tokens,
        cached_tokens, completion_tokens, usage_source, byok, cost_picodollars, key_id, endpoint, model, upstream,
        upstream_request_id, usage_clamped, outcome, expire_time, idempotency_key, request_hash, held_tokens,
        overage_messages, reserve_time, settle_time
    )
    SELECT r.*, p.now, CASE WHEN r.state <> 'open' THEN p.now END
    FROM p, json_to_recordset($2::text::json) AS r(
        workspace_id text, request_id text, day date, state text, owner text, nonce bigint, held_messages bigint,
        counted_messages bigint, prompt_tokens bigint, cached_tokens bigint, completion_tokens bigint,
        usage_source text, byok boolean, cost_picodollars bigint, key_id text, endpoint text, model text,
        upstream text, upstream_request_id text, usage_clamped boolean, outcome text, expire_time timestamptz,
        idempotency_key text, request_hash bytea, held_tokens bigint, overage_messages bigint
    )
), changed AS (
    UPDATE {day} l
    SET state = r.state, counted_messages = r.counted_messages, prompt_tokens = r.prompt_tokens,
        cached_tokens = r.cached_tokens, completion_tokens = r.completion_tokens, usage_source = r.usage_source,
        byok = r.byok, cost_picodollars = r.cost_picodollars,
        upstream = CASE WHEN r.upstream = '' THEN l.upstream ELSE r.upstream END,
        upstream_request_id = CASE WHEN r.upstream_request_id = '' THEN l.upstream_request_id
                                   ELSE r.upstream_request_id END,
        usage_clamped = r.usage_clamped, outcome = r.outcome, overage_messages = r.overage_messages,
        settle_time = CASE WHEN r.state <> 'open' THEN p.now END
    FROM p, json_to_recordset($3::text::json) AS r(
        workspace_id text, request_id text, day date, state text, counted_messages bigint, prompt_tokens bigint,
        cached_tokens bigint, completion_tokens bigint, usage_source text, byok boolean, cost_picodollars bigint,
        upstream text, upstream_request_id text, usage_clamped boolean, outcome text, overage_messages bigint
    ), LATERAL (
        SELECT k.tableoid, k.ctid FROM {day} k
        WHERE k.workspace_id = r.workspace_id AND k.request_id = r.request_id AND k.day = r.day OFFSET 0
    ) k
    WHERE l.ctid = k.ctid AND l.tableoid = k.tableoid AND l.state = 'open'
), keys AS (
    INSERT INTO key_daily_message_count AS k (
        key_id, day, workspace_id, message_count, held_messages, input_tokens, cached_tokens, output_tokens,
        request_count, byok_message_count, open_requests, request_window
    )
    SELECT * FROM json_to_recordset($4::text::json) AS r(
        key_id text, day date, workspace_id text, message_count bigint, held_messages bigint, input_tokens bigint,
        cached_tokens bigint, output_tokens bigint, request_count bigint, byok_message_count bigint,
        open_requests bigint, request_window bigint[]
    )
    ON CONFLICT (key_id, day) DO UPDATE SET
        message_count = k.message_count + excluded.message_count,
        held_messages = k.held_messages + excluded.held_messages,
        input_tokens = k.input_tokens + excluded.input_tokens,
        cached_tokens = k.cached_tokens + excluded.cached_tokens,
        output_tokens = k.output_tokens + excluded.output_tokens,
        request_count = k.request_count + excluded.request_count,
        byok_message_count = k.byok_message_count + excluded.byok_message_count,
        open_requests = k.open_requests + excluded.open_requests,
        request_window = coalesce(excluded.request_window, k.request_window)
)
UPDATE daily_message_count d
SET message_count = d.message_count + r.message_count, held_messages = d.held_messages + r.held_messages,
    input_tokens = d.input_tokens + r.input_tokens, cached_tokens = d.cached_tokens + r.cached_tokens,
    output_tokens = d.output_tokens + r.output_tokens, request_count = d.request_count + r.request_count,
    byok_message_count = d.byok_message_count + r.byok_message_count,
    byok_input_tokens = d.byok_input_tokens + r.byok_input_tokens,
    byok_output_tokens = d.byok_output_tokens + r.byok_output_tokens,
    byok_request_count = d.byok_request_count + r.byok_request_count,
    cost_picodollars = d.cost_picodollars + r.cost_picodollars,
    byok_cost_picodollars = d.byok_cost_picodollars + r.byok_cost_picodollars,
    unpriced_request_count = d.unpriced_request_count + r.unpriced_request_count,
    overage_message_count = d.overage_message_count + r.overage_message_count,
    overrun_message_count = d.overrun_message_count + r.overrun_message_count
FROM json_to_recordset($5::text::json) AS r(
    workspace_id text, day date, message_count bigint, held_messages bigint, input_tokens bigint,
    cached_tokens bigint, output_tokens bigint, request_count bigint, byok_message_count bigint,
    byok_input_tokens bigint, byok_output_tokens bigint, byok_request_count bigint, cost_picodollars numeric,
    byok_cost_picodollars numeric, unpriced_request_count bigint, overage_message_count bigint,
    overrun_message_count bigint
), LATERAL (
    SELECT k.ctid FROM daily_message_count k WHERE k.workspace_id = r.workspace_id AND k.day = r.day OFFSET 0
) k
WHERE d.ctid = k.ctid
"""
"""Everything that a batch changes, in one statement: new ledger rows, ended or noted ones, and the sums of keys' and
workspaces' days. Rows are found by their key first and then by their place: joined directly, the planner may go through
all that are open for each of them."""
