"""I8 under load: midnights pass while requests run, and each counts on the day of its reservation."""

import asyncio
import threading
from datetime import date
from functools import partial

from fakes.books import Books
from fakes.midnight import TEST_CLOCK
from sqlalchemy import Engine

from quillgate_core.counting import Usage
from quillgate_core.errors import AllowanceExhausted
from quillgate_core.reservation import Receipt, Reservation, Reserve, Settle
from quillgate_core.storage.ledger import Ledger, connect_ledger
from quillgate_core.storage.writer import GroupedWriter

DAYS = 6
WORKERS = 24
ALLOWANCE = 40
WAIT_S = 20


async def test_i08_midnights_under_load(engine: Engine, database_url: str) -> None:
    """Two replicas under load through midnights: settles land on the reservation's day, each has its allowance."""
    books = Books(engine)
    books.add_workspace(allowance=ALLOWANCE)
    books.run("CREATE TABLE test_clock (now timestamptz)")
    books.run("INSERT INTO test_clock VALUES ('2030-05-01 23:59:59.9Z')")
    writers = [
        GroupedWriter(connect=partial(connect_ledger, database_url), ledger=Ledger(clock=TEST_CLOCK)) for _ in range(2)
    ]
    for writer in writers:
        writer.start()
    is_over = threading.Event()
    runs = [asyncio.create_task(_work(writers[number % 2], number, is_over)) for number in range(WORKERS)]
    for days in range(1, DAYS):
        await _until_used_up(books, days)
        await asyncio.to_thread(books.run, "UPDATE test_clock SET now = now + interval '12 hours'")
        await asyncio.sleep(0.2)
        await asyncio.to_thread(books.run, "UPDATE test_clock SET now = now + interval '12 hours'")
    await _until_used_up(books, DAYS)
    is_over.set()
    admitted = {request_id: day for run in runs for request_id, day in (await run).items()}
    for writer in writers:
        writer.close(5)
    rows = {row.request_id: row for row in books.read("SELECT request_id, day, state FROM ledger")}
    assert {request_id: row.day for request_id, row in rows.items()} == admitted
    assert {row.state for row in rows.values()} == {"settled"}
    counts = books.read("SELECT day, message_count, held_messages FROM daily_message_count ORDER BY day")
    assert len({row.day for row in counts}) >= DAYS
    assert {(row.message_count, row.held_messages) for row in counts} == {(ALLOWANCE, 0)}
    books.check()


async def _until_used_up(books: Books, days: int) -> None:
    """Wait until so many days have begun and nothing is left of the last one, while requests of it still run."""
    used = "SELECT message_count + held_messages AS used FROM daily_message_count ORDER BY day"
    async with asyncio.timeout(WAIT_S):
        while [row.used for row in await asyncio.to_thread(books.read, used)] != [ALLOWANCE] * days:
            await asyncio.sleep(0.05)


async def _work(writer: GroupedWriter, number: int, is_over: threading.Event) -> dict[str, date]:
    """Reserve, wait as a provider does, settle; return the day of each reservation."""
    admitted: dict[str, date] = {}
    index = 0
    while not is_over.is_set():
        index += 1
        request_id = f"{number}-{index}"
        step = Reserve(workspace_id="ws", request_id=request_id, hold_messages=1, owner="core")
        outcome = await writer.submit(step).outcome()
        if isinstance(outcome, AllowanceExhausted):
            await asyncio.sleep(0.01)
            continue
        assert isinstance(outcome, Reservation)
        admitted[request_id] = outcome.day
        await asyncio.sleep(0.05 * (index % 5))
        settle = Settle(
            workspace_id="ws",
            request_id=request_id,
            usage=Usage(10, 0, 5),
            usage_source="provider",
            owner="core",
            day=outcome.day,
        )
        receipt = await writer.submit(settle).outcome()
        assert isinstance(receipt, Receipt)
        assert receipt.day == outcome.day
    return admitted
