"""Applies a batch of steps to the ledger in one transaction of two round trips: lock and read, then write and commit.

The allowance is checked on locked `workspace_id, day` rows, taken in sorted order by every process, so batches of
several cores never deadlock and never admit too much. Applying the same steps again changes nothing and answers the
same, which makes an unknown commit harmless. This module must not retry after errors of the connection, nor know
about threads or futures: that is the writer's.
"""

from collections.abc import Collection, Sequence
from datetime import date
from typing import Any, Final, LiteralString

import msgspec
import psycopg

from quillgate_core import failpoint as places
from quillgate_core.failpoint import Failpoint, no_failpoint
from quillgate_core.reservation import Outcome, Record, Release, Reserve, Settle, Step
from quillgate_core.storage import ledger_sql as sql
from quillgate_core.storage.engine import connect_arguments
from quillgate_core.storage.key_account import KeyState
from quillgate_core.storage.ledger_batch import LedgerBatch, LockMissing
from quillgate_core.storage.ledger_days import ensure_ledger_day, kept_days
from quillgate_core.storage.ledger_pipeline import LedgerPipeline, dates, day_text, texts
from quillgate_core.storage.ledger_rows import Claim, DailyRow, LedgerRow
from quillgate_core.storage.ledger_statements import DEFAULT_CLOCK, LedgerStatements, Reads
from quillgate_core.storage.workspace_account import WorkspaceState

MAX_ATTEMPTS: Final = 5
MAX_KNOWN_DAYS: Final = 100_000
REPLAN_BATCHES: Final = 1_024

KEEPALIVE: Final = {
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}

DayKey = tuple[str, date]

_encode: Final = msgspec.json.Encoder().encode


class LedgerContended(Exception):
    """The rows moved under a batch too often; nothing was written and the batch can be applied again."""


class DayMoved(Exception):
    """UTC midnight passed between choosing the day and holding its locks."""


def connect_ledger(database_url: str) -> psycopg.Connection:
    """Open the dedicated connection of a writer; a dead peer is noticed within about ten seconds.

    Autocommit, because the ledger's transactions are pipelines, which begin and commit by themselves. psycopg prepares
    nothing on it: it would deallocate what the pipelines have prepared together with its own.
    """
    settings: dict[str, Any] = {**connect_arguments(database_url), **KEEPALIVE}
    url = database_url.replace("postgresql+psycopg://", "postgresql://", 1)
    connection = psycopg.connect(url, autocommit=True, prepare_threshold=None, **settings)
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

    def __init__(self, clock: LiteralString = DEFAULT_CLOCK, *, failpoint: Failpoint = no_failpoint) -> None:
        self._clock = clock
        self._failpoint = failpoint
        self._today_query = sql.TODAY.replace(DEFAULT_CLOCK, clock).encode()
        self._statements: LedgerStatements | None = None
        self._pipeline: LedgerPipeline | None = None
        self._known_days: set[DayKey] = set()
        self._batches = 0

    def apply(self, connection: psycopg.Connection, steps: Sequence[Step]) -> list[Outcome]:
        """Apply the steps in order, durably, and answer each; all or none of them when this raises.

        Raises psycopg.Error as it comes and LedgerContended. After any error the connection must be closed: it may
        hold an open transaction.
        """
        pipeline = self._pipeline
        if pipeline is None or pipeline.connection is not connection:
            pipeline = self._pipeline = LedgerPipeline(connection)
        trusts_days = True
        for _ in range(MAX_ATTEMPTS):
            try:
                return self._attempt(pipeline, steps, trusts_days=trusts_days)
            except DayMoved:
                self._statements = None
            except LockMissing:
                self._known_days.clear()
                trusts_days = False
            except psycopg.Error:
                self._statements = None
                raise
        raise LedgerContended

    def _attempt(self, pipeline: LedgerPipeline, steps: Sequence[Step], *, trusts_days: bool) -> list[Outcome]:
        statements = self._statements or self._enter_day(pipeline.connection)
        today, reads = statements.today, statements.reads(steps, trusts_days=trusts_days)
        starting = {step.workspace_id for step in steps if isinstance(step, Reserve | Record)}
        lock_keys = _ending_days(pipeline, reads, steps, trusts_days=trusts_days)
        lock_keys.update((workspace_id, today) for workspace_id in starting)
        missing = sorted(workspace_id for workspace_id in starting if (workspace_id, today) not in self._known_days)
        # Once the day before was locked after midnight, nobody can add to it: what is read of it stays true.
        lock_keys.update((workspace_id, statements.yesterday) for workspace_id in missing)
        # All statements of a pipeline are one transaction, which its end commits. Nothing but empty daily rows is
        # written before the last statement, so leaving early needs no rollback.
        with pipeline:
            self._replan(pipeline)
            if missing:
                pipeline.execute(sql.ENSURE_DAILY_ROWS, day_text(today), texts(missing))
            batch = _lock_and_read(pipeline, statements, reads, steps, sorted(lock_keys))
            self._failpoint(places.LOCKED)
            if batch.day != today:
                raise DayMoved  # also for ends alone: another core may have begun them on the new day
            outcomes = [batch.decide(step) for step in steps]
            _write(pipeline, statements, batch)
            self._failpoint(places.WRITTEN)
        self._failpoint(places.COMMITTED)
        self._remember(lock_keys & batch.locked_days)
        return outcomes

    def _enter_day(self, connection: psycopg.Connection) -> LedgerStatements:
        """Look which day it is, see to its partition, and make the statements for it."""
        row = connection.execute(self._today_query).fetchone()
        assert row is not None
        today: date = row[0]
        ensure_ledger_day(connection, today)
        self._statements = LedgerStatements(today, kept_days(connection), self._clock)
        return self._statements

    def _replan(self, pipeline: LedgerPipeline) -> None:
        """Make the server plan anew at 1, 2, 4 … batches and then every 1,024.

        Planned on an empty ledger, the look-up of a row may take the index of workspace and day, which later means
        reading a busy workspace's whole day: measured, 700 requests/s instead of 10,000, until the next autoanalyze.
        """
        self._batches += 1
        if self._batches & (self._batches - 1) == 0 or self._batches % REPLAN_BATCHES == 0:
            pipeline.execute(b"DISCARD PLANS")

    def _remember(self, days: set[DayKey]) -> None:
        """Note daily rows that are known to be committed, so that the next batch does not try to make them."""
        if len(self._known_days) > MAX_KNOWN_DAYS:
            self._known_days.clear()
        self._known_days |= days


def _ending_days(pipeline: LedgerPipeline, reads: Reads, steps: Sequence[Step], *, trusts_days: bool) -> set[DayKey]:
    """Find which days to lock for settles and releases: the caller's, or looked up, as a row's day never changes."""
    days: set[DayKey] = set()
    unknown: list[tuple[str, str]] = []
    for step in steps:
        if isinstance(step, Settle | Release):
            if trusts_days and step.day is not None:
                days.add((step.workspace_id, step.day))
            else:
                unknown.append((step.workspace_id, step.request_id))
    if unknown:
        with pipeline:
            pipeline.query(reads.days, *map(texts, _columns(unknown)))
            days.update(pipeline.rows())
    return days


def _lock_and_read(
    pipeline: LedgerPipeline,
    statements: LedgerStatements,
    reads: Reads,
    steps: Sequence[Step],
    lock_keys: Sequence[DayKey],
) -> LedgerBatch:
    """Send the locks and the reads at once; the server runs them in this order, and so the locks come first."""
    workspace_ids, days = _columns(lock_keys)
    pipeline.query(sql.LOCK_DAILY_ROWS, texts(workspace_ids), dates(days))
    today, month = day_text(statements.today), day_text(statements.month)
    pipeline.query(statements.read_workspaces, texts({step.workspace_id for step in steps}), month, today)
    asking = [step for step in steps if isinstance(step, Reserve | Settle | Release)]
    key_ids = {step.key_id for step in asking if step.key_id is not None}
    if key_ids:
        pipeline.query(statements.read_keys, texts(key_ids), today, day_text(statements.yesterday), month)
    ids = {(step.workspace_id, step.request_id) for step in steps}
    pipeline.query(reads.rows, *map(texts, _columns(ids)))
    claimed = {
        (step.workspace_id, step.idempotency.key)
        for step in steps
        if isinstance(step, Reserve) and step.idempotency is not None
    }
    if claimed:
        pipeline.query(statements.remembered.claims, *map(texts, _columns(claimed)))
    locked, clock = pipeline.rows(), pipeline.rows()
    return LedgerBatch(
        now=clock[0][0],
        day=clock[0][1],
        workspaces={row[2]: WorkspaceState(*row[3:]) for row in clock if row[2] is not None},
        key_states={row[0]: KeyState(*row[1:]) for row in pipeline.rows()} if key_ids else {},
        daily_rows=[DailyRow(*row) for row in locked],
        rows=[_stored_row(row) for row in pipeline.rows()],
        claims=[Claim(*row) for row in pipeline.rows()] if claimed else (),
    )


def _write(pipeline: LedgerPipeline, statements: LedgerStatements, batch: LedgerBatch) -> None:
    if batch.inserts or batch.changed or batch.changed_days:
        rows = (batch.inserts, batch.changed, batch.changed_key_days, batch.changed_days)
        statement = statements.write(list({row.day for row in batch.changed}))
        # Rows are encoded as one parameter: a fifth of the Python time of a parameter for each value.
        pipeline.execute(statement, batch.now.isoformat().encode(), *map(_encode, rows))


def _stored_row(columns: tuple[Any, ...]) -> LedgerRow:
    row = LedgerRow(*columns)
    row.is_stored = True
    return row


def _columns(pairs: Collection[tuple[Any, Any]]) -> tuple[list[Any], list[Any]]:
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]
