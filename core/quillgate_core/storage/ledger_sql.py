"""The ledger's statements, each prepared once per connection; constants only.

Every transaction runs them in this order: make missing daily rows, lock the daily rows in sorted order, read everything
else, write. Under READ COMMITTED each statement sees what was committed before it began, so what is read after the
locks is what the locks protect. `clock_timestamp()` is replaced where a test brings its own clock; `now()` would be the
transaction's start and is never used.
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
SELECT w.workspace_id, %s FROM workspaces w WHERE w.workspace_id = ANY(%s) ORDER BY w.workspace_id
ON CONFLICT DO NOTHING
"""

LOCK_DAILY_ROWS: Final = b"""
SELECT d.workspace_id, d.day, d.message_count + d.held_messages
FROM unnest(%s::text[], %s::date[]) AS k(workspace_id, day), LATERAL (
    SELECT * FROM daily_message_count d WHERE d.workspace_id = k.workspace_id AND d.day = k.day FOR UPDATE
) d
"""
"""Locks in the order of the parameters, which the caller sorts."""

READ_WORKSPACES: Final = """
SELECT c.now, (c.now AT TIME ZONE 'UTC')::date, w.workspace_id, w.daily_message_allowance, w.credential_revision
FROM (SELECT clock_timestamp() AS now OFFSET 0) c LEFT JOIN workspaces w ON w.workspace_id = ANY(%s)
"""

READ_KEYS: Final = """
SELECT key_id, workspace_id, revision,
       revoke_time IS NULL AND (expire_time IS NULL OR expire_time > clock_timestamp())
FROM keys WHERE key_id = ANY(%s)
"""

READ_ROWS: Final = b"""
SELECT l.workspace_id, l.request_id, l.day, l.state, l.owner, l.nonce, l.held_messages, l.counted_messages,
       l.prompt_tokens, l.cached_tokens, l.completion_tokens, l.usage_source, l.byok, l.cost_picodollars
FROM unnest(%s::text[], %s::text[]) AS k(workspace_id, request_id), LATERAL (
    SELECT * FROM ledger l WHERE l.workspace_id = k.workspace_id AND l.request_id = k.request_id OFFSET 0
) l
"""

READ_CLAIMS: Final = b"""
SELECT l.workspace_id, l.idempotency_key, l.request_id, l.state, l.request_hash
FROM unnest(%s::text[], %s::text[]) AS k(workspace_id, idempotency_key), LATERAL (
    SELECT * FROM ledger l
    WHERE l.workspace_id = k.workspace_id AND l.idempotency_key = k.idempotency_key AND l.state <> 'released' OFFSET 0
) l
"""
"""Reads which rows have an idempotency key; the unique index refuses what two cores insert around midnight."""

FIND_DAYS: Final = b"""
SELECT l.workspace_id, l.day
FROM unnest(%s::text[], %s::text[]) AS k(workspace_id, request_id), LATERAL (
    SELECT * FROM ledger l WHERE l.workspace_id = k.workspace_id AND l.request_id = k.request_id OFFSET 0
) l
"""

WRITE: Final = b"""
WITH p AS (SELECT %s::timestamptz AS now), inserted AS (
    INSERT INTO ledger (
        workspace_id, request_id, day, state, owner, nonce, held_messages, counted_messages, prompt_tokens,
        cached_tokens, completion_tokens, usage_source, byok, cost_picodollars, key_id, endpoint, model, upstream,
        upstream_request_id, usage_clamped, outcome, expire_time, idempotency_key, request_hash, reserve_time,
        settle_time
    )
    SELECT r.*, p.now, CASE WHEN r.state <> 'open' THEN p.now END
    FROM p, json_to_recordset(%s::text::json) AS r(
        workspace_id text, request_id text, day date, state text, owner text, nonce bigint, held_messages bigint,
        counted_messages bigint, prompt_tokens bigint, cached_tokens bigint, completion_tokens bigint,
        usage_source text, byok boolean, cost_picodollars bigint, key_id text, endpoint text, model text,
        upstream text, upstream_request_id text, usage_clamped boolean, outcome text, expire_time timestamptz,
        idempotency_key text, request_hash bytea
    )
), changed AS (
    UPDATE ledger l
    SET state = r.state, counted_messages = r.counted_messages, prompt_tokens = r.prompt_tokens,
        cached_tokens = r.cached_tokens, completion_tokens = r.completion_tokens, usage_source = r.usage_source,
        byok = r.byok, cost_picodollars = r.cost_picodollars,
        upstream = CASE WHEN r.upstream = '' THEN l.upstream ELSE r.upstream END,
        upstream_request_id = CASE WHEN r.upstream_request_id = '' THEN l.upstream_request_id
                                   ELSE r.upstream_request_id END,
        usage_clamped = r.usage_clamped, outcome = r.outcome,
        settle_time = CASE WHEN r.state <> 'open' THEN p.now END
    FROM p, json_to_recordset(%s::text::json) AS r(
        workspace_id text, request_id text, state text, counted_messages bigint, prompt_tokens bigint,
        cached_tokens bigint, completion_tokens bigint, usage_source text, byok boolean, cost_picodollars bigint,
        upstream text, upstream_request_id text, usage_clamped boolean, outcome text
    ), LATERAL (
        SELECT k.ctid FROM ledger k WHERE k.workspace_id = r.workspace_id AND k.request_id = r.request_id OFFSET 0
    ) k
    WHERE l.ctid = k.ctid AND l.state = 'open'
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
    unpriced_request_count = d.unpriced_request_count + r.unpriced_request_count
FROM json_to_recordset(%s::text::json) AS r(
    workspace_id text, day date, message_count bigint, held_messages bigint, input_tokens bigint,
    cached_tokens bigint, output_tokens bigint, request_count bigint, byok_message_count bigint,
    byok_input_tokens bigint, byok_output_tokens bigint, byok_request_count bigint, cost_picodollars numeric,
    byok_cost_picodollars numeric, unpriced_request_count bigint
), LATERAL (
    SELECT k.ctid FROM daily_message_count k WHERE k.workspace_id = r.workspace_id AND k.day = r.day OFFSET 0
) k
WHERE d.ctid = k.ctid
"""
"""Everything that a batch changes, in one statement: new ledger rows, ended or noted ones, and the days' sums."""
