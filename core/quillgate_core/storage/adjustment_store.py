"""Corrections of charges: a terminal ledger row never changes, so what is learnt later is a row beside it.

A correction is in the sums of the row's own day as well, the workspace's and the key's. It takes its locks in the order
of the ledger, the workspace's day first, so any core may correct at any time. It must not judge an allowance: work that
was done is recorded.
"""

from collections.abc import Sequence
from typing import Any, Final, LiteralString

from sqlalchemy import Connection, Engine, text

from quillgate_core.adjustment import VOID, Adjustment, UnsureRow
from quillgate_core.counting import Usage, counted_messages, sane
from quillgate_core.errors import ReservationNotFound
from quillgate_core.reservation import Receipt, Release, Settle
from quillgate_core.storage.daily_lock import lock_days
from quillgate_core.storage.engine import database_errors
from quillgate_core.storage.ledger_statements import DEFAULT_CLOCK

OWN_SOURCE: Final = "settle"
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
    WHERE a.workspace_id = l.workspace_id AND a.request_id = l.request_id AND a.source IN (l.upstream, '{VOID}')
  )
ORDER BY l.settle_time DESC LIMIT :limit
"""  # noqa: S608 - only constants are put in

"""The clock is a query of its own: only then is the index searched by time, and not read from end to end."""

_FIND_DAY: Final = text("""
SELECT day FROM ledger WHERE workspace_id = :workspace_id AND request_id = :request_id ORDER BY day DESC LIMIT 1
""")

_READ: Final = text("""
SELECT l.byok, l.key_id, l.counted_messages, l.prompt_tokens, l.cached_tokens, l.completion_tokens, l.cost_picodollars
FROM ledger l
WHERE l.workspace_id = :workspace_id AND l.request_id = :request_id AND l.day = :day
  AND l.state IN ('settled', 'recovered')
""")

_READ_ADJUSTMENTS: Final = text("""
SELECT source, counted_messages, prompt_tokens, cached_tokens, completion_tokens, cost_picodollars
FROM ledger_adjustments WHERE workspace_id = :workspace_id AND request_id = :request_id
""")

_READ_DAY: Final = text("""
SELECT w.daily_message_allowance, d.message_count + d.held_messages
FROM workspaces w JOIN daily_message_count d ON d.workspace_id = w.workspace_id
WHERE w.workspace_id = :workspace_id AND d.day = :day
""")

_INSERT: Final = text("""
INSERT INTO ledger_adjustments (
    workspace_id, request_id, source, day, counted_messages, prompt_tokens, cached_tokens, completion_tokens,
    cost_picodollars, actor_key_id, note
)
VALUES (
    :workspace_id, :request_id, :source, :day, :counted_messages, :prompt_tokens, :cached_tokens, :completion_tokens,
    :cost_picodollars, :actor_key_id, :note
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

_ADD_TO_KEY: Final = text("""
UPDATE key_daily_message_count
SET message_count = message_count + CASE WHEN :byok THEN 0 ELSE :counted_messages END,
    byok_message_count = byok_message_count + CASE WHEN :byok THEN :counted_messages ELSE 0 END,
    input_tokens = input_tokens + :prompt_tokens, cached_tokens = cached_tokens + :cached_tokens,
    output_tokens = output_tokens + :completion_tokens
WHERE key_id = :key_id AND day = :day
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

        A source is heard once for each row: a repetition changes nothing and returns the first answer. Nobody is heard
        any more of a row that was voided, and nothing is added. Raises ReservationNotFound for a row that was not
        charged, and Overloaded.
        """
        with database_errors(), self._engine.begin() as connection:
            row = _lock(connection, workspace_id, request_id)
            if source not in row.added:
                if VOID in row.added:
                    return _NOTHING
                usage = sane(usage)[0]
                _add(connection, row, source, _missing(row, usage, counted_messages(usage), cost_picodollars))
            return row.added[source]

    def void(self, workspace_id: str, request_id: str, *, actor_key_id: str, note: str) -> Adjustment:
        """Make the charge nothing, for good, in the name of an admin's key, and return what was added.

        A repetition changes nothing and returns the first answer, whoever says it. Raises as `adjust` does.
        """
        with database_errors(), self._engine.begin() as connection:
            row = _lock(connection, workspace_id, request_id)
            if VOID not in row.added:
                added = _missing(row, Usage(), 0, 0)
                _add(connection, row, VOID, added, actor_key_id=actor_key_id, note=note)
            return row.added[VOID]

    def correct(self, end: Settle | Release) -> Receipt:
        """Make a recovered charge what its owner says after all, and return the receipt of what is charged then.

        A Release makes it nothing. A row that anybody has corrected before stays as it is: so a repetition changes
        nothing, nor does a guess overrule what a provider told or an admin decided. What the workspace's own provider
        key served though the allowance was held is charged nothing, and counted nowhere. Raises as `adjust` does.
        """
        with database_errors(), self._engine.begin() as connection:
            row = _lock(connection, end.workspace_id, end.request_id)
            if not row.added:
                _add(connection, row, OWN_SOURCE, _owed(row, end))
            return _receipt(connection, row, end)


_NOTHING: Final = Adjustment(0, 0, 0, 0)


class _Charged:
    """A charged row, whose day is locked: what was charged and what was added by each source since."""

    def __init__(
        self, key: dict[str, Any], *, byok: bool, key_id: str | None, charge: Adjustment, added: dict[str, Adjustment]
    ) -> None:
        self.key = key
        self.byok = byok
        self.key_id = key_id
        self.charge = charge
        self.added = added

    def total(self) -> Adjustment:
        """What all that comes to."""
        charges = [self.charge, *self.added.values()]
        costs = [charge.cost_picodollars for charge in charges if charge.cost_picodollars is not None]
        return Adjustment(
            sum(charge.counted_messages for charge in charges),
            sum(charge.prompt_tokens for charge in charges),
            sum(charge.cached_tokens for charge in charges),
            sum(charge.completion_tokens for charge in charges),
            sum(costs) if costs else None,
        )


def _lock(connection: Connection, workspace_id: str, request_id: str) -> _Charged:
    """Lock the day of a charged row and read it; raises ReservationNotFound for any other."""
    key: dict[str, Any] = {"workspace_id": workspace_id, "request_id": request_id}
    day = connection.execute(_FIND_DAY, key).scalar_one_or_none()
    if day is None:
        raise ReservationNotFound(request_id)
    lock_days(connection, [(workspace_id, day)])
    key["day"] = day
    row = connection.execute(_READ, key).one_or_none()
    if row is None:
        raise ReservationNotFound(request_id)
    byok, key_id, *charge = row
    added = {source: Adjustment(*rest) for source, *rest in connection.execute(_READ_ADJUSTMENTS, key)}
    return _Charged(key, byok=byok, key_id=key_id, charge=Adjustment(*charge), added=added)


def _missing(row: _Charged, usage: Usage, messages: int, cost_picodollars: int | None) -> Adjustment:
    """Return what the charge lacks; a cost that nobody told stays as it is."""
    total = row.total()
    return Adjustment(
        messages - total.counted_messages,
        usage.prompt_tokens - total.prompt_tokens,
        usage.cached_tokens - total.cached_tokens,
        usage.completion_tokens - total.completion_tokens,
        None if cost_picodollars is None else cost_picodollars - (total.cost_picodollars or 0),
    )


def _owed(row: _Charged, end: Settle | Release) -> Adjustment:
    if isinstance(end, Release) or (end.byok and not row.byok):
        return _missing(row, Usage(), 0, 0)
    usage = sane(end.usage)[0]
    return _missing(row, usage, counted_messages(usage), end.cost_picodollars)


def _receipt(connection: Connection, row: _Charged, end: Settle | Release) -> Receipt:
    total = row.total()
    allowance, used_messages = connection.execute(_READ_DAY, row.key).one()
    return Receipt(
        end.workspace_id,
        end.request_id,
        row.key["day"],
        total.counted_messages,
        Usage(total.prompt_tokens, total.cached_tokens, total.completion_tokens),
        end.usage_source if isinstance(end, Settle) else "",
        None if allowance is None else max(0, allowance - used_messages),
        byok=row.byok or (isinstance(end, Settle) and end.byok),
        cost_picodollars=total.cost_picodollars,
        allowance_messages=allowance,
    )


def _add(
    connection: Connection,
    row: _Charged,
    source: str,
    added: Adjustment,
    *,
    actor_key_id: str | None = None,
    note: str = "",
) -> None:
    was_priced = row.total().cost_picodollars is not None
    parameters = {
        **row.key,
        "source": source,
        "counted_messages": added.counted_messages,
        "prompt_tokens": added.prompt_tokens,
        "cached_tokens": added.cached_tokens,
        "completion_tokens": added.completion_tokens,
        "cost_picodollars": added.cost_picodollars,
        "cost": added.cost_picodollars or 0,
        "priced": int(added.cost_picodollars is not None and not was_priced),
        "actor_key_id": actor_key_id,
        "note": note,
    }
    connection.execute(_INSERT, parameters)
    connection.execute(_ADD_BYOK if row.byok else _ADD, parameters)
    if row.key_id is not None:
        connection.execute(_ADD_TO_KEY, {**parameters, "key_id": row.key_id, "byok": row.byok})
    row.added[source] = added
