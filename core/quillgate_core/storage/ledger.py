"""Applies a batch of steps to the ledger in one transaction of two round trips: lock and read, then write and commit.

The allowance is checked on locked `workspace_id, day` rows, taken in sorted order by every process, so batches of
several cores never deadlock and never admit too much. Applying the same steps again changes nothing and answers the
same, which makes an unknown commit harmless. This module must not retry after errors of the connection, nor know
about threads or futures: that is the writer's.
"""

from collections.abc import Iterable, Sequence
from datetime import date, datetime
from typing import Any, Final, LiteralString

import msgspec
import psycopg

from ..reservation import Outcome, Record, Reserve, Step
from . import ledger_sql as sql
from .ledger_batch import DailyRow, KeyState, LedgerBatch, LedgerRow, LockMissing

DEFAULT_CLOCK: Final = "clock_timestamp()"
MAX_ATTEMPTS: Final = 5
MAX_KNOWN_DAYS: Final = 100_000

DayKey = tuple[str, date]


class LedgerContended(Exception):  # noqa: N818 - the writer tries again
    """The rows moved under a batch too often; nothing was written and the batch can be applied again."""


class DayMoved(Exception):  # noqa: N818 - asks for another attempt, is no failure
    """UTC midnight passed between choosing the day and holding its locks."""


def connect_ledger(database_url: str) -> psycopg.Connection:
    """Open the dedicated connection of a writer; a dead peer is noticed within about ten seconds.

    Autocommit, because the ledger sends its own BEGIN and COMMIT within the pipeline.
    """
    connection = psycopg.connect(
        database_url,
        autocommit=True,
        connect_timeout=5,
        keepalives_idle=5,
        keepalives_interval=2,
        keepalives_count=3,
        tcp_user_timeout=10_000,
    )
    try:
        connection.execute(sql.SESSION)
    except BaseException:
        connection.close()
        raise
    return connection


class Ledger:
    """The ledger's transactions; used by one thread at a time, since it remembers the day and the rows it made.

    `clock` is the SQL expression of the time, a constructor argument so that a test can bring midnight.
    """

    def __init__(self, clock: LiteralString = DEFAULT_CLOCK) -> None:
        self._today_query = sql.TODAY.replace(DEFAULT_CLOCK, clock).encode()
        self._read_workspaces = sql.READ_WORKSPACES.replace(DEFAULT_CLOCK, clock).encode()
        self._read_keys = sql.READ_KEYS.replace(DEFAULT_CLOCK, clock).encode()
        self._encode = msgspec.json.Encoder().encode
        self._day: date | None = None
        self._known_days: set[DayKey] = set()

    def apply(self, connection: psycopg.Connection, steps: Sequence[Step]) -> list[Outcome]:
        """Apply the steps in order, durably, and answer each; all or none of them when this raises.

        Raises psycopg.Error as it comes and LedgerContended. After any error the connection must be closed: it may
        hold an open transaction.
        """
        trusts_days = True
        for _ in range(MAX_ATTEMPTS):
            try:
                return self._attempt(connection, steps, trusts_days=trusts_days)
            except DayMoved:
                connection.execute(b"ROLLBACK")
            except LockMissing:
                connection.execute(b"ROLLBACK")
                self._known_days.clear()
                trusts_days = False
        raise LedgerContended

    def _attempt(self, connection: psycopg.Connection, steps: Sequence[Step], *, trusts_days: bool) -> list[Outcome]:
        today = self._day or self._read_today(connection)
        starters = {step.workspace_id for step in steps if isinstance(step, Reserve | Record)}
        lock_keys = {(workspace_id, today) for workspace_id in starters}
        lock_keys |= self._ending_days(connection, steps, trusts_days=trusts_days)
        unknown = sorted(workspace_id for workspace_id in starters if (workspace_id, today) not in self._known_days)
        with connection.pipeline() as pipeline:
            batch, day = self._lock_and_read(connection, steps, sorted(lock_keys), unknown, today)
            if starters and day != today:
                raise DayMoved
            outcomes = [batch.decide(step) for step in steps]
            self._write(connection, batch)
            pipeline.sync()
        self._remember(workspace_id for workspace_id in batch.workspace_ids if workspace_id in starters)
        return outcomes
