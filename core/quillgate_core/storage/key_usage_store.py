"""Reads `key_daily_message_count` for what a key used and may still use. It writes nothing and takes no locks."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from datetime import UTC, timedelta
from typing import Any, Final, LiteralString

from sqlalchemy import Engine, Row, text

from quillgate_core.key import Key
from quillgate_core.key_usage import KeyCount, KeyFigures
from quillgate_core.storage.engine import database_errors, single_statements
from quillgate_core.storage.key_account import KeyState
from quillgate_core.storage.ledger_statements import DEFAULT_CLOCK

# The days of the month, and yesterday: a request that began before midnight still runs, and still counts to its minute.
_DAYS = """
SELECT c.now, c.today, d.*
FROM (
    SELECT now, (now AT TIME ZONE 'UTC')::date AS today FROM (SELECT clock_timestamp() AS now OFFSET 0) t
) c
LEFT JOIN key_daily_message_count d
    ON d.key_id = :key_id AND d.day BETWEEN least(date_trunc('month', c.today)::date, c.today - 1) AND c.today
ORDER BY d.day
"""

_SUMS: Final = tuple(field.name for field in fields(KeyCount))


class SqlKeyUsageStore:
    """A KeyUsageStore on an engine; raises Overloaded when the database is away."""

    def __init__(self, engine: Engine, clock: LiteralString = DEFAULT_CLOCK) -> None:
        self._engine = single_statements(engine)
        self._days = text(_DAYS.replace(DEFAULT_CLOCK, clock))

    def read(self, key: Key) -> KeyFigures:
        """Return the sums as they are committed now, with the key's limits; zeros for a key that was never used."""
        with database_errors(), self._engine.connect() as connection:
            rows = connection.execute(self._days, {"key_id": key.key_id}).all()
        now, today = rows[0].now.astimezone(UTC), rows[0].today
        days = [row for row in rows if row.day is not None]
        return KeyFigures(
            now=now,
            today=_sum(row for row in days if row.day == today),
            month=_sum(row for row in days if row.day >= today.replace(day=1)),
            rates=tuple(_state(key, days).rates(now)),
        )


def _state(key: Key, days: Sequence[Row[Any]]) -> KeyState:
    """Return the key as a reservation would read it, as far as its rates are concerned."""
    # A window moves on to the next day's row as it changes, so the last one knows all that still counts.
    windows = [row.request_window for row in days if row.request_window and row.today - row.day <= timedelta(days=1)]
    state = KeyState(key.workspace_id, key.revision, live=True, **asdict(key.limits))
    state.open_requests = sum(row.open_requests for row in days)
    state.window = windows[-1] if windows else None
    return state


def _sum(days: Iterable[Row[Any]]) -> KeyCount:
    days = tuple(days)
    return KeyCount(**{name: sum(getattr(day, name) for day in days) for name in _SUMS})
