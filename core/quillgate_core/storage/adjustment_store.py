"""Corrections of charges: a terminal ledger row never changes, so what is learnt later is a row beside it.

A correction is in the sums of the row's own day as well. It takes its locks in the order of the ledger, the daily row
first, so any core may correct at any time. It must not judge an allowance: work that was done is recorded.
"""

from collections.abc import Sequence
from typing import Any, Final, LiteralString

from sqlalchemy import Connection, Engine, text

from quillgate_core.adjustment import Adjustment, UnsureRow
from quillgate_core.counting import Usage, counted_messages, sane
from quillgate_core.errors import ReservationNotFound
from quillgate_core.storage.daily_lock import lock_days
from quillgate_core.storage.engine import database_errors
from quillgate_core.storage.ledger_statements import DEFAULT_CLOCK

MIN_AGE_S: Final = 5
MAX_AGE_S: Final = 86_400

_UNSURE: Final = f"""
SELECT l.workspace_id, l.request_id, l.upstream, l.upstream_request_id, l.byok, l.settle_time
FROM ledger l
WHERE l.upstream_request_id <> '' AND l.usage_source IN ('estimate', 'hold') AND l.state IN ('settled', 'recovered')
  AND l.settle_time > (SELECT clock_timestamp()) - interval '{MAX_AGE_S} seconds'
  AND l.settle_time < (SELECT clock_timestamp()) - interval '{MIN_AGE_S} seconds'
  AND l.upstream = ANY(CAST(:providers AS text[]))
  AND NOT EXISTS (
    SELECT FROM ledger_adjustments a
    WHERE a.workspace_id = l.workspace_id AND a.request_id = l.request_id AND a.source = l.upstream
  )
ORDER BY l.settle_time DESC LIMIT :limit
"""  # noqa: S608 - the only thing put in is a constant

"""The clock is a query of its own: only then is the index searched by time, and not read from end to end."""

_FIND_DAY: Final = text("SELECT day FROM ledger WHERE workspace_id = :workspace_id AND request_id = :request_id")

_READ: Final = text("""
SELECT l.byok, l.counted_messages, l.prompt_tokens, l.cached_tokens, l.completion_tokens, l.cost_picodollars
FROM ledger l
WHERE l.workspace_id = :workspace_id AND l.request_id = :request_id AND l.state IN ('settled', 'recovered')
""")

_READ_ADJUSTMENTS: Final = text("""
SELECT source, counted_messages, prompt_tokens, cached_tokens, completion_tokens, cost_picodollars
FROM ledger_adjustments WHERE workspace_id = :workspace_id AND request_id = :request_id
""")

_INSERT: Final = text("""
INSERT INTO ledger_adjustments (
    workspace_id, request_id, source, day, counted_messages, prompt_tokens, cached_tokens, completion_tokens,
    cost_picodollars
)
VALUES (
    :workspace_id, :request_id, :source, :day, :counted_messages, :prompt_tokens, :cached_tokens, :completion_tokens,
    :cost_picodollars
)
""")

_ADD: Final = text("""
UPDATE daily_message_count
SET message_count = message_count + :counted_messages, input_tokens = input_tokens + :prompt_tokens,
    cached_tokens = cached_tokens + :cached_tokens, output_tokens = output_tokens + :completion_tokens,
    cost_picodollars = cost_picodollars + :cost, unpriced_request_count = unpriced_request_count - :priced
WHERE workspace_id = :workspace_id AND day = :day
""")

_ADD_BYOK: Final = text("""
UPDATE daily_message_count
SET byok_message_count = byok_message_count + :counted_messages,
    byok_input_tokens = byok_input_tokens + :prompt_tokens,
    byok_output_tokens = byok_output_tokens + :completion_tokens,
    byok_cost_picodollars = byok_cost_picodollars + :cost, unpriced_request_count = unpriced_request_count - :priced
WHERE workspace_id = :workspace_id AND day = :day
""")


class SqlAdjustmentStore:
    """AdjustmentStore in PostgreSQL; `clock` is the SQL expression of the time, for tests to replace."""

    def __init__(self, engine: Engine, clock: LiteralString = DEFAULT_CLOCK) -> None:
        self._engine = engine
        self._unsure = text(_UNSURE.replace(DEFAULT_CLOCK, clock))

    def unsure(self, providers: Sequence[str], limit: int) -> list[UnsureRow]:
        """Return charged rows of the last day whose usage is a guess that the provider may correct, newest first.

        Those of the last 5 s are left out, which no provider knows of yet. Raises Overloaded.
        """
        parameters = {"providers": list(providers), "limit": limit}
        with database_errors(), self._engine.connect() as connection:
            return [UnsureRow(*row) for row in connection.execute(self._unsure, parameters)]

    def adjust(
        self, workspace_id: str, request_id: str, *, source: str, usage: Usage, cost_picodollars: int | None
    ) -> Adjustment:
        """Make the charge that of `usage`, clamped where it is not sane, and return what was added.

        A source is heard once for each row: a repetition changes nothing and returns the first answer. Raises
        ReservationNotFound for a row that was not charged, and Overloaded.
        """
        key = {"workspace_id": workspace_id, "request_id": request_id}
        with database_errors(), self._engine.begin() as connection:
            day = connection.execute(_FIND_DAY, key).scalar_one_or_none()
            if day is None:
                raise ReservationNotFound(request_id)
            lock_days(connection, [(workspace_id, day)])
            row = connection.execute(_READ, key).one_or_none()
            if row is None:
                raise ReservationNotFound(request_id)
            before = {source: Adjustment(*rest) for source, *rest in connection.execute(_READ_ADJUSTMENTS, key)}
            if source in before:
                return before[source]
            byok, *charged = row
            charges = [Adjustment(*charged), *before.values()]
            added = _missing(charges, sane(usage)[0], cost_picodollars)
            _write(connection, {**key, "source": source, "day": day}, added, charges, byok=byok)
            return added


def _missing(charges: Sequence[Adjustment], usage: Usage, cost_picodollars: int | None) -> Adjustment:
    """Return what the charges lack; a cost that nobody told stays as it is."""
    cost = None
    if cost_picodollars is not None:
        cost = cost_picodollars - sum(charge.cost_picodollars or 0 for charge in charges)
    return Adjustment(
        counted_messages(usage) - sum(charge.counted_messages for charge in charges),
        usage.prompt_tokens - sum(charge.prompt_tokens for charge in charges),
        usage.cached_tokens - sum(charge.cached_tokens for charge in charges),
        usage.completion_tokens - sum(charge.completion_tokens for charge in charges),
        cost,
    )


def _write(
    connection: Connection, key: dict[str, Any], added: Adjustment, charges: Sequence[Adjustment], *, byok: bool
) -> None:
    was_priced = any(charge.cost_picodollars is not None for charge in charges)
    parameters = {
        **key,
        "counted_messages": added.counted_messages,
        "prompt_tokens": added.prompt_tokens,
        "cached_tokens": added.cached_tokens,
        "completion_tokens": added.completion_tokens,
        "cost_picodollars": added.cost_picodollars,
        "cost": added.cost_picodollars or 0,
        "priced": int(added.cost_picodollars is not None and not was_priced),
    }
    connection.execute(_INSERT, parameters)
    connection.execute(_ADD_BYOK if byok else _ADD, parameters)
