"""The ledger's partitions, one a UTC day, so that old days are dropped and not deleted row by row.

A statement that names its day's partition spares the server a look at all the others. Whoever writes first on a day
makes its partition; nothing else may. It must not judge when a day may be dropped.
"""

from collections.abc import Iterable
from datetime import date, timedelta
from typing import Final

import psycopg

REMEMBER_DAYS: Final = 7
"""How many days back a request id or an idempotency key is recognised; a day is kept for longer than that."""

# Any constant that nobody else uses: "QG" and "ledger" in ASCII.
_ADVISORY_LOCK_ID: Final = 0x51476C6564676572

_EXISTING: Final = """
SELECT to_date(right(c.relname, 8), 'YYYYMMDD')
FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = 'ledger'::regclass ORDER BY 1
"""


def partition(day: date) -> str:
    """Return the name of a day's partition."""
    return f"ledger_{day:%Y%m%d}"


def kept_days(connection: psycopg.Connection) -> list[date]:
    """Return the days that have a partition, oldest first."""
    return [row[0] for row in connection.execute(_EXISTING)]


def ensure_ledger_day(connection: psycopg.Connection, day: date) -> None:
    """Make a day's partition unless it is there; any number of processes may do it at once.

    Attaching takes a lock that lets reads and writes of the other days go on, which `PARTITION OF` would not.
    """
    name = partition(day)
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (_ADVISORY_LOCK_ID,))
        if connection.execute("SELECT to_regclass(%s)", (name,)).fetchone() != (None,):
            return
        connection.execute(f"CREATE TABLE {name} (LIKE ledger INCLUDING ALL)".encode())
        bounds = f"FROM ('{day}') TO ('{day + timedelta(days=1)}')"
        connection.execute(f"ALTER TABLE ledger ATTACH PARTITION {name} FOR VALUES {bounds}".encode())


def source(days: Iterable[date]) -> str:
    """Return what to read instead of `ledger` where only these days matter, which all must have a partition."""
    names = [partition(day) for day in days]
    if len(names) == 1:
        return names[0]
    return f"({' UNION ALL '.join(f'SELECT * FROM {name}' for name in names)})"  # noqa: S608 - names of partitions
