"""Ledger rows made up for readers: days with partitions, and as many rows as a test wants, without a writer."""

from datetime import date, timedelta

from fakes.books import Books
from sqlalchemy import Engine

_INSERT = """
INSERT INTO ledger (
    workspace_id, request_id, day, state, key_id, nonce, endpoint, model, upstream, held_messages, counted_messages,
    prompt_tokens, cached_tokens, completion_tokens, usage_source, outcome, reserve_time, settle_time, byok,
    cost_picodollars
)
SELECT :workspace_id, :prefix || md5(n::text), :day, 'settled', :key_id, n, :endpoint, :model, :upstream, 2, :messages,
       10, 4, 5, 'provider', 'complete', CAST(:day AS timestamp) AT TIME ZONE 'UTC' + (n + :first) * interval '1 ms',
       CAST(:day AS timestamp) AT TIME ZONE 'UTC' + interval '1 hour', :byok, :cost
FROM generate_series(1, :count) n
"""

_DAY = """
INSERT INTO daily_message_count (
    workspace_id, day, message_count, input_tokens, cached_tokens, output_tokens, request_count, byok_message_count,
    byok_input_tokens, byok_output_tokens, byok_request_count, cost_picodollars, byok_cost_picodollars,
    unpriced_request_count
)
SELECT :workspace_id, :day, coalesce(sum(counted_messages) FILTER (WHERE NOT byok), 0),
       coalesce(sum(prompt_tokens) FILTER (WHERE NOT byok), 0), coalesce(sum(cached_tokens) FILTER (WHERE NOT byok), 0),
       coalesce(sum(completion_tokens) FILTER (WHERE NOT byok), 0), count(*) FILTER (WHERE NOT byok),
       coalesce(sum(counted_messages) FILTER (WHERE byok), 0), coalesce(sum(prompt_tokens) FILTER (WHERE byok), 0),
       coalesce(sum(completion_tokens) FILTER (WHERE byok), 0), count(*) FILTER (WHERE byok),
       coalesce(sum(cost_picodollars) FILTER (WHERE NOT byok), 0),
       coalesce(sum(cost_picodollars) FILTER (WHERE byok), 0), count(*) FILTER (WHERE cost_picodollars IS NULL)
FROM ledger WHERE workspace_id = :workspace_id AND day = :day AND state IN ('settled', 'recovered')
"""


class LedgerDays(Books):
    """Books whose ledger has the days that a test adds."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self._count = 0

    def add_day(self, day: date) -> None:
        """Make a day's partition, unless it is there."""
        bounds = f"FROM ('{day}') TO ('{day + timedelta(days=1)}')"
        self.run(f"CREATE TABLE IF NOT EXISTS ledger_{day:%Y%m%d} PARTITION OF ledger FOR VALUES {bounds}")

    def add_rows(
        self,
        day: date,
        count: int = 1,
        *,
        workspace_id: str = "ws",
        key_id: str | None = "key_1",
        model: str = "a/model",
        endpoint: str = "chat.completions",
        upstream: str = "openrouter",
        messages: int = 1,
        byok: bool = False,
        cost: int | None = 7,
    ) -> list[str]:
        """Add settled rows of 10 prompt, 4 cached and 5 completion tokens, a millisecond apart; return their ids."""
        prefix = f"req_{self._count}_"
        self.run(
            _INSERT,
            day=day,
            count=count,
            workspace_id=workspace_id,
            prefix=prefix,
            key_id=key_id,
            model=model,
            endpoint=endpoint,
            upstream=upstream,
            messages=messages,
            byok=byok,
            cost=cost,
            first=self._count,
        )
        self._count += count
        rows = self.read(
            "SELECT request_id FROM ledger WHERE request_id LIKE :prefix ORDER BY nonce", prefix=prefix + "%"
        )
        return [row[0] for row in rows]

    def sum_up(self, day: date, workspace_id: str = "ws") -> None:
        """Write the daily row of a day's rows."""
        self.run(_DAY, day=day, workspace_id=workspace_id)
