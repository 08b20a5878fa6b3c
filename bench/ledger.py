"""How many requests a second one process can reserve and settle durably, and what each costs in Python.

    python bench/ledger.py [--database-url URL] [--seconds 2] [--rows 10000000]

Without a URL an embedded PostgreSQL is started in a temporary directory. Every commit is durable. CPU is that of this
process (event loop and writer thread), PostgreSQL apart; the lone figures are medians of one request at a time. Every
request has a key, whose sums are kept too, and every workspace an allowance that is checked. With --rows the table is
measured a second time, with so many rows in today's partition already.
"""

import argparse
import asyncio
import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import uvloop
from sqlalchemy import Engine, text

from quillgate_core.counting import Usage
from quillgate_core.metering import Metering, Reserve, Settle
from quillgate_core.storage.daily_store import SqlDailyStore
from quillgate_core.storage.embedded import EmbeddedPostgres
from quillgate_core.storage.engine import make_engine
from quillgate_core.storage.lease_store import SqlLeaseStore
from quillgate_core.storage.ledger import Ledger, connect_ledger
from quillgate_core.storage.schema import migrate
from quillgate_core.storage.writer import GroupedWriter

OWNER = "bench"
CONCURRENT = (1, 4, 16, 64, 128, 256)
USAGE = Usage(prompt_tokens=1_000, cached_tokens=200, completion_tokens=300)


@dataclass
class Sample:
    """Times of one worker's requests, in seconds."""

    reserves: list[float]
    settles: list[float]


def workspace_ids(engine: Engine, count: int) -> list[str]:
    """Make workspaces with a large allowance, so that its check is part of the work, and a key in each."""
    ids = [f"ws_{count}_{number}" for number in range(count)]
    workspaces = text(
        "INSERT INTO workspaces (workspace_id, name, daily_message_allowance) "
        "SELECT id, id, 1000000000 FROM unnest(CAST(:ids AS text[])) AS id ON CONFLICT DO NOTHING"
    )
    keys = text(
        "INSERT INTO keys (key_id, workspace_id, name, scopes, allowed_models) "
        "SELECT 'key_' || id, id, id, '{inference}', '{}' FROM unnest(CAST(:ids AS text[])) AS id "
        "ON CONFLICT DO NOTHING"
    )
    with engine.begin() as connection:
        connection.execute(workspaces, {"ids": ids})
        connection.execute(keys, {"ids": ids})
    return ids


def fill(engine: Engine, ids: list[str], count: int) -> None:
    """Put so many settled rows into today's partition, spread over the workspaces, and their sums into their days."""
    rows = text(
        "INSERT INTO ledger (workspace_id, request_id, day, state, key_id, owner, nonce, endpoint, model, upstream,"
        " held_messages, counted_messages, prompt_tokens, completion_tokens, usage_source, outcome, reserve_time,"
        " settle_time) SELECT w.id, 'filled-' || md5(n::text), (clock_timestamp() AT TIME ZONE 'UTC')::date, 'settled',"
        " 'key_' || w.id, 'bench', n, 'chat.completions', 'bench', 'bench', 2, 1, 1000, 300, 'provider', 'complete',"
        " clock_timestamp(), clock_timestamp()"
        " FROM generate_series(CAST(:first AS bigint), CAST(:last AS bigint)) AS n"
        " JOIN unnest(CAST(:ids AS text[])) WITH ORDINALITY AS w(id, number) ON w.number = n % :workspaces + 1"
    )
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("SET statement_timeout = 0; SET lock_timeout = 0"))
        for first in range(0, count, 1_000_000):
            last = min(first + 1_000_000, count) - 1
            connection.execute(rows, {"first": first, "last": last, "ids": ids, "workspaces": len(ids)})
        connection.execute(text("VACUUM (ANALYZE) ledger"))
        connection.execute(text("CHECKPOINT"))


async def work(metering: Metering, next_id: Callable[[], str], ids: list[str], end: float) -> Sample:
    """Reserve and settle one request after the other until the time is up."""
    sample = Sample([], [])
    while time.perf_counter() < end:
        request_id = next_id()
        workspace_id = ids[int(request_id) % len(ids)]
        begin = time.perf_counter()
        reservation = await metering.reserve(
            Reserve(
                workspace_id=workspace_id,
                request_id=request_id,
                hold_messages=2,
                key_id=f"key_{workspace_id}",
                key_revision=1,
                owner=OWNER,
                model="bench",
            )
        )
        reserved = time.perf_counter()
        await metering.settle(
            Settle(
                workspace_id=workspace_id,
                request_id=request_id,
                usage=USAGE,
                usage_source="provider",
                owner=OWNER,
                day=reservation.day,
                outcome="complete",
            )
        )
        sample.reserves.append(reserved - begin)
        sample.settles.append(time.perf_counter() - reserved)
    return sample


async def measure(
    metering: Metering, next_id: Callable[[], str], ids: list[str], concurrent: int, run_s: float
) -> None:
    """Run so many workers at once and print one line."""
    cpu_s, begin = time.process_time(), time.perf_counter()
    workers: list[Awaitable[Sample]] = [work(metering, next_id, ids, begin + run_s) for _ in range(concurrent)]
    samples = await asyncio.gather(*workers)
    elapsed_s, cpu_s = time.perf_counter() - begin, time.process_time() - cpu_s
    reserves = [seconds for sample in samples for seconds in sample.reserves]
    settles = [seconds for sample in samples for seconds in sample.settles]
    print(
        f"{len(ids):>10} {concurrent:>10} {len(reserves) / elapsed_s:>12,.0f} {cpu_s / len(reserves) * 1e6:>14.1f}"
        f" {statistics.median(reserves) * 1e3:>12.2f} {statistics.median(settles) * 1e3:>12.2f}"
    )


async def measure_all(metering: Metering, workspaces: dict[int, list[str]], run_s: float) -> None:
    """Print the table: one hot workspace and a hundred, from one request at a time to 256."""
    numbers = iter(range(sys.maxsize))
    stamp = time.time_ns()
    print(f"{'workspaces':>10} {'concurrent':>10} {'requests/s':>12} {'CPU us/request':>14}", end="")
    print(f" {'reserve ms':>12} {'settle ms':>12}")
    for ids in workspaces.values():
        for concurrent in CONCURRENT:
            await measure(metering, lambda: str(stamp + next(numbers)), ids, concurrent, run_s)


@contextlib.contextmanager
def database(url: str | None) -> Iterator[str]:
    """The given database, or an embedded one that goes with the run."""
    if url is not None:
        yield url
        return
    with tempfile.TemporaryDirectory(prefix="quillgate-bench-") as folder, EmbeddedPostgres(Path(folder)) as server:
        yield server.url


def main() -> None:
    """Set everything up, measure, and shut down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database-url", help="a scratch database; rows are left in it")
    parser.add_argument("--seconds", type=float, default=2.0, help="duration of each line, in seconds")
    parser.add_argument("--rows", type=int, default=0, help="rows to put into the ledger before a second table")
    arguments = parser.parse_args()
    with database(arguments.database_url) as url:
        engine = make_engine(url)
        migrate(engine)
        writer = GroupedWriter(connect=partial(connect_ledger, url), ledger=Ledger())
        writer.start()
        metering = Metering(
            writer=writer,
            daily_store=SqlDailyStore(engine),
            lease_store=SqlLeaseStore(engine),
            instance_id=OWNER,
        )
        workspaces = {count: workspace_ids(engine, count) for count in (1, 100)}
        uvloop.run(measure_all(metering, workspaces, arguments.seconds))
        if arguments.rows:
            fill(engine, [*workspaces[1] * 100, *workspaces[100]], arguments.rows)
            print(f"\nwith {arguments.rows:,} rows more, half of them of the hot workspace")
            uvloop.run(measure_all(metering, workspaces, arguments.seconds))
        writer.close(5)
        engine.dispose()


if __name__ == "__main__":
    main()
