"""The grouped writer: each accepted step lands exactly once, whatever happens to the database or to who waits."""

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from functools import partial

import psycopg
import pytest
from fakes.books import Books
from fakes.ledgers import FakeConnection, FakeLedger
from sqlalchemy import Engine

from quillgate_core.counting import Usage
from quillgate_core.errors import AllowanceExhausted, Overloaded, QuillgateError
from quillgate_core.reservation import Outcome, Receipt, Record, Release, Reservation, Reserve, Settle, Step
from quillgate_core.storage.ledger import Ledger, LedgerContended, connect_ledger
from quillgate_core.storage.writer import GroupedWriter, is_fault_of_a_step

USAGE = Usage(10, 0, 5)
MakeWriter = Callable[..., GroupedWriter]


def reserve(request_id: str, *, owner: str | None = "a", hold_messages: int = 1, key_id: str | None = None) -> Reserve:
    """A reserve in the test's workspace."""
    return Reserve(workspace_id="ws", request_id=request_id, hold_messages=hold_messages, owner=owner, key_id=key_id)


def settle(request_id: str, *, owner: str | None = "a") -> Settle:
    """A settle in the test's workspace."""
    return Settle(workspace_id="ws", request_id=request_id, usage=USAGE, usage_source="provider", owner=owner)


@pytest.fixture
def books(engine: Engine) -> Iterator[Books]:
    """The books of the test's database, checked at the end."""
    books = Books(engine)
    books.add_workspace()
    yield books
    books.check()


@pytest.fixture
def ledger() -> FakeLedger:
    """The real ledger with a gate and arranged failures."""
    return FakeLedger(Ledger().apply)


@pytest.fixture
def make_writer(database_url: str, books: Books) -> Iterator[MakeWriter]:
    """Makes running writers, which are closed before the books are checked."""
    writers: list[GroupedWriter] = []

    def make(ledger: FakeLedger | Ledger, *, reserve_timeout_s: float = 60.0, **more: int) -> GroupedWriter:
        connect = partial(connect_ledger, database_url)
        writer = GroupedWriter(connect=connect, ledger=ledger, reserve_timeout_s=reserve_timeout_s, **more)
        writer.start()
        writers.append(writer)
        return writer

    yield make
    for writer in writers:
        writer.close(20)


async def answer(writer: GroupedWriter, step: Step) -> Outcome:
    """Submit a step and wait."""
    return await writer.submit(step).outcome()


async def begun(ledger: FakeLedger) -> None:
    """Wait until the writer has a batch in hand."""
    await asyncio.to_thread(ledger.has_begun.wait)


async def test_steps_are_grouped(make_writer: MakeWriter, ledger: FakeLedger, books: Books) -> None:
    """While one batch is written the next gathers, and its size is bounded."""
    writer = make_writer(ledger, max_batch_steps=8)
    ledger.gate.clear()
    first = asyncio.create_task(answer(writer, reserve("first")))
    await asyncio.sleep(0)
    await begun(ledger)
    rest = [asyncio.create_task(answer(writer, reserve(f"r{number}"))) for number in range(20)]
    await asyncio.sleep(0)
    ledger.gate.set()
    await asyncio.gather(first, *rest)
    assert [len(batch) for batch in ledger.batches] == [1, 8, 8, 4]
    assert books.states() == {"open": 21}


@pytest.mark.parametrize("writer_count", [1, 2])
async def test_exactly_what_is_left_is_admitted(make_writer: MakeWriter, books: Books, writer_count: int) -> None:
    """Of 50 concurrent reserves with 37 messages left, on one replica or two, exactly 37 are admitted."""
    books.run("UPDATE workspaces SET daily_message_allowance = 37")
    writers = [make_writer(Ledger()) for _ in range(writer_count)]
    steps = [answer(writers[number % writer_count], reserve(f"r{number}")) for number in range(50)]
    outcomes = await asyncio.gather(*steps)
    assert sum(isinstance(outcome, Reservation) for outcome in outcomes) == 37
    assert sum(isinstance(outcome, AllowanceExhausted) for outcome in outcomes) == 13
    assert books.day().held_messages == 37


def test_two_replicas_race_for_the_last_message(make_writer: MakeWriter, books: Books) -> None:
    """Again and again, two writers in threads of their own reserve the one message left: exactly one wins."""
    books.run("UPDATE workspaces SET daily_message_allowance = 1")
    writers = [make_writer(Ledger()), make_writer(Ledger())]
    rounds = 25
    barrier = threading.Barrier(2)
    wins: list[list[bool]] = [[], []]

    async def race(replica: int) -> None:
        for number in range(rounds):
            await asyncio.to_thread(barrier.wait)
            outcome = await answer(writers[replica], reserve(f"r{number}.{replica}"))
            wins[replica].append(isinstance(outcome, Reservation))
            await asyncio.to_thread(barrier.wait)
            if wins[replica][-1]:
                await answer(writers[replica], Release(workspace_id="ws", request_id=f"r{number}.{replica}", owner="a"))

    threads = [threading.Thread(target=lambda replica=replica: asyncio.run(race(replica))) for replica in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one + other for one, other in zip(*wins, strict=True)] == [1] * rounds


async def test_two_replicas_reserve_the_same_id(make_writer: MakeWriter, books: Books) -> None:
    """One request id on two replicas at once makes one row, and one of the two is told that it was replayed."""
    writers = [make_writer(Ledger()), make_writer(Ledger())]
    for number in range(20):
        outcomes = await asyncio.gather(*[answer(writer, reserve(f"r{number}")) for writer in writers])
        assert sorted(outcome.replayed for outcome in outcomes if isinstance(outcome, Reservation)) == [False, True]
    assert books.states() == {"open": 20}


async def test_a_commit_whose_answer_was_lost_is_not_doubled(
    make_writer: MakeWriter, ledger: FakeLedger, books: Books
) -> None:
    """Each kind of step whose commit succeeded unheard is answered as if nothing had happened, and counted once."""
    writer = make_writer(ledger)
    for step in (
        reserve("1"),
        settle("1"),
        reserve("2"),
        Release(workspace_id="ws", request_id="2", owner="a"),
        Record(workspace_id="ws", request_id="3", usage=USAGE),
    ):
        ledger.losses.append(psycopg.OperationalError())
        outcome = await answer(writer, step)
        assert isinstance(outcome, Reservation | Receipt)
        assert not (isinstance(outcome, Reservation) and outcome.replayed)
    assert books.states() == {"settled": 2, "released": 1}
    assert books.day().message_count == 2


async def test_killed_connections_lose_and_double_nothing(make_writer: MakeWriter, books: Books) -> None:
    """While the server kills the writer's backend again and again, every request is reserved and settled once."""
    writer = make_writer(Ledger())
    is_done = asyncio.Event()

    async def serve(worker: int) -> None:
        for number in range(15):
            request_id = f"{worker}.{number}"
            assert isinstance(await answer(writer, reserve(request_id)), Reservation)
            assert isinstance(await answer(writer, settle(request_id)), Receipt)

    async def kill() -> int:
        kills = 0
        while not is_done.is_set():
            query = (
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE application_name = 'quillgate writer' AND datname = current_database()"
            )
            kills += len(await asyncio.to_thread(books.read, query))
            await asyncio.sleep(0.03)
        return kills

    killer = asyncio.create_task(kill())
    await asyncio.gather(*[serve(worker) for worker in range(16)])
    is_done.set()
    assert await killer > 0
    assert books.states() == {"settled": 240}
    assert tuple(books.day())[2:8] == (240, 0, 2400, 0, 1200, 240)


async def test_ends_wait_for_the_database(make_writer: MakeWriter, ledger: FakeLedger, books: Books) -> None:
    """A settle outlasts failures of many kinds and lands once the database is back."""
    writer = make_writer(ledger)
    await answer(writer, reserve("1"))
    ledger.failures += [
        psycopg.OperationalError(),
        psycopg.errors.AdminShutdown(),
        psycopg.errors.ReadOnlySqlTransaction(),
        LedgerContended(),
    ]
    assert isinstance(await answer(writer, settle("1")), Receipt)
    assert books.states() == {"settled": 1}


async def test_a_reserve_does_not_wait_for_ever(make_writer: MakeWriter, ledger: FakeLedger, books: Books) -> None:
    """A reserve that the database does not answer in time is refused, and released when it lands after all."""
    writer = make_writer(ledger, reserve_timeout_s=0.05)
    ledger.gate.clear()
    outcome = await answer(writer, reserve("late"))
    assert isinstance(outcome, Overloaded)
    assert outcome.metadata == {"retry_after_s": "1"}
    queued = await answer(writer, reserve("never sent"))
    assert isinstance(queued, Overloaded)
    ledger.gate.set()
    await answer(writer, settle("nothing"))
    await answer(writer, settle("nothing"))
    assert books.states() == {"released": 1}
    assert books.row("late").outcome == "abandoned"


async def test_a_reserve_of_unknown_fate_is_released(make_writer: MakeWriter, ledger: FakeLedger, books: Books) -> None:
    """A reserve that timed out while its commit was unheard of is released by the next attempt."""
    writer = make_writer(ledger, reserve_timeout_s=0.05)
    ledger.gate.clear()
    ledger.losses.append(psycopg.OperationalError())
    assert isinstance(await answer(writer, reserve("1")), Overloaded)
    ledger.gate.set()
    await answer(writer, settle("nothing"))
    assert books.states() == {"released": 1}
    assert isinstance(ledger.batches[1][0], Release)


async def test_a_reserve_without_owner_is_left_to_its_caller(
    make_writer: MakeWriter, ledger: FakeLedger, books: Books
) -> None:
    """A caller of MeteringService whose reserve timed out gets the same reservation when it asks again."""
    writer = make_writer(ledger, reserve_timeout_s=0.05)
    ledger.gate.clear()
    assert isinstance(await answer(writer, reserve("1", owner=None)), Overloaded)
    ledger.gate.set()
    await answer(writer, settle("nothing"))
    again = await answer(writer, reserve("1", owner=None))
    assert isinstance(again, Reservation)
    assert (again.state, again.replayed) == ("open", True)


async def test_a_cancelled_reserve_is_dropped_or_released(
    make_writer: MakeWriter, ledger: FakeLedger, books: Books
) -> None:
    """Cancelled while queued a reserve is never sent; cancelled in flight it is released, without charge."""
    writer = make_writer(ledger)
    ledger.gate.clear()
    in_flight = asyncio.create_task(answer(writer, reserve("in flight")))
    await asyncio.sleep(0)
    await begun(ledger)
    queued = asyncio.create_task(answer(writer, reserve("queued")))
    await asyncio.sleep(0)
    in_flight.cancel()
    queued.cancel()
    await asyncio.gather(in_flight, queued, return_exceptions=True)
    ledger.gate.set()
    await answer(writer, settle("nothing"))
    await answer(writer, settle("nothing"))
    assert books.states() == {"released": 1}
    assert books.row("in flight").counted_messages == 0


async def test_a_reserve_cancelled_at_any_moment_leaves_nothing_open(make_writer: MakeWriter, books: Books) -> None:
    """However many turns of the loop pass before the cancellation, what nobody received is released."""
    writer = make_writer(Ledger())
    received = 0
    for turns in range(60):
        task = asyncio.create_task(answer(writer, reserve(f"r{turns}")))
        for turn in range(turns):
            await asyncio.sleep(0 if turn % 3 else 0.0002)
        task.cancel()
        (outcome,) = await asyncio.gather(task, return_exceptions=True)
        received += isinstance(outcome, Reservation)
    await answer(writer, settle("nothing"))
    await answer(writer, settle("nothing"))
    assert books.states().get("open", 0) == received


async def test_a_cancelled_settle_lands(make_writer: MakeWriter, ledger: FakeLedger, books: Books) -> None:
    """Cancelling who waits for a settle does not stop the settle."""
    writer = make_writer(ledger)
    await answer(writer, reserve("1"))
    ledger.gate.clear()
    task = asyncio.create_task(answer(writer, settle("1")))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    ledger.gate.set()
    await answer(writer, settle("nothing"))
    assert books.states() == {"settled": 1}


def test_a_reserve_of_a_loop_that_ended_is_released(make_writer: MakeWriter, ledger: FakeLedger, books: Books) -> None:
    """When the loop is closed before the answer comes, the row is released by the writer itself."""
    writer = make_writer(ledger)
    ledger.gate.clear()

    async def submit() -> None:
        writer.submit(reserve("1"))
        await begun(ledger)

    asyncio.run(submit())
    ledger.gate.set()
    assert writer.close(20)
    assert books.states() == {"released": 1}


async def test_a_poisonous_step_fails_alone(make_writer: MakeWriter, ledger: FakeLedger, books: Books) -> None:
    """A step that the database can never take fails with an internal error; the rest of its batch lands."""
    writer = make_writer(ledger)
    ledger.gate.clear()
    first = asyncio.create_task(answer(writer, reserve("first")))
    await asyncio.sleep(0)
    await begun(ledger)
    steps = [reserve(f"r{number}", key_id="\x00" if number == 7 else None) for number in range(20)]
    rest = [asyncio.create_task(answer(writer, step)) for step in steps]
    await asyncio.sleep(0)
    ledger.gate.set()
    outcomes = await asyncio.gather(first, *rest)
    failed = [number for number, outcome in enumerate(outcomes) if not isinstance(outcome, Reservation)]
    assert failed == [8]
    assert type(outcomes[8]) is QuillgateError
    assert "\x00" not in str(outcomes[8])
    assert books.states() == {"open": 20}


async def test_values_out_of_range_fail_alone(make_writer: MakeWriter, books: Books) -> None:
    """A number that no column holds fails its own step only, also inside the pipelined write."""
    writer = make_writer(Ledger())
    outcomes = await asyncio.gather(
        *[answer(writer, reserve(f"r{number}", hold_messages=10**30 if number == 3 else 1)) for number in range(6)]
    )
    assert [isinstance(outcome, Reservation) for outcome in outcomes] == [True, True, True, False, True, True]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (psycopg.DataError(), True),
        (psycopg.errors.CheckViolation(), True),
        (UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogate"), True),
        (psycopg.errors.UniqueViolation(), False),
        (psycopg.errors.ReadOnlySqlTransaction(), False),
        (psycopg.errors.DiskFull(), False),
        (psycopg.errors.QueryCanceled(), False),
        (psycopg.errors.UndefinedTable(), False),
        (psycopg.InterfaceError(), False),
        (LedgerContended(), False),
        (ConnectionRefusedError(), False),
    ],
)
def test_only_bad_data_is_the_fault_of_a_step(error: Exception, expected: bool) -> None:
    """A state of the database, read-only after a fail-over for instance, never costs a settle."""
    assert is_fault_of_a_step(error) is expected


async def test_posted_ends_land_and_refusals_are_logged(
    make_writer: MakeWriter, books: Books, caplog: pytest.LogCaptureFixture
) -> None:
    """An end that nobody waits for lands, and one that is refused is logged with its request id."""
    writer = make_writer(Ledger())
    await answer(writer, reserve("1"))
    with caplog.at_level(logging.WARNING):
        writer.post(settle("1"))
        writer.post(settle("unheard of"))
        await answer(writer, settle("nothing"))
    assert books.states() == {"settled": 1}
    assert [record.getMessage() for record in caplog.records] == [
        "the end of unheard of was refused: ReservationNotFound"
    ]


async def test_a_full_queue_refuses_beginnings_but_no_ends(
    make_writer: MakeWriter, ledger: FakeLedger, books: Books
) -> None:
    """When too much waits, new reserves, records and foreign ends are refused; the ends of own ones never are."""
    writer = make_writer(ledger, max_queue_steps=3)
    await answer(writer, reserve("1"))
    ledger.gate.clear()
    ledger.has_begun.clear()
    waiting = [asyncio.create_task(answer(writer, settle("nothing")))]
    await asyncio.sleep(0)
    await begun(ledger)
    waiting += [asyncio.create_task(answer(writer, settle("nothing"))) for _ in range(3)]
    await asyncio.sleep(0)
    for step in (reserve("2"), Record(workspace_id="ws", request_id="3", usage=USAGE), settle("4", owner=None)):
        with pytest.raises(Overloaded):
            writer.submit(step)
    end = asyncio.create_task(answer(writer, settle("1")))
    await asyncio.sleep(0)
    ledger.gate.set()
    assert isinstance(await end, Receipt)
    await asyncio.gather(*waiting)


async def test_close_lands_what_is_queued(make_writer: MakeWriter, ledger: FakeLedger, books: Books) -> None:
    """Closing drains the queue; afterwards and meanwhile new work is refused."""
    writer = make_writer(ledger)
    await answer(writer, reserve("1"))
    ledger.gate.clear()
    writer.post(settle("1"))
    closing = asyncio.create_task(asyncio.to_thread(writer.close, 20))
    await begun(ledger)
    ledger.gate.set()
    assert await closing
    with pytest.raises(Overloaded):
        writer.submit(reserve("2"))
    assert books.states() == {"settled": 1}


def test_close_gives_up_in_time() -> None:
    """With the database away, closing says that it could not land everything, and the thread ends."""
    ledger = FakeLedger(lambda connection, steps: [])
    ledger.failures += [psycopg.OperationalError()] * 1_000
    writer = GroupedWriter(connect=FakeConnection, ledger=ledger)
    writer.start()
    writer.post(settle("1"))
    ledger.has_begun.wait()
    assert not writer.close(0.01)
    assert writer.close(20)


def test_a_connection_is_never_used_after_an_error() -> None:
    """Each failure closes the connection, so that a transaction of unknown state cannot go on."""
    connections: list[FakeConnection] = []

    def connect() -> FakeConnection:
        connections.append(FakeConnection())
        return connections[-1]

    ledger = FakeLedger(lambda connection, steps: [QuillgateError("") for _ in steps])
    ledger.failures += [psycopg.OperationalError(), psycopg.errors.LockNotAvailable()]
    writer = GroupedWriter(connect=connect, ledger=ledger)
    writer.start()
    writer.post(settle("1"))
    assert writer.close(20)
    assert [connection.is_closed for connection in connections] == [True] * 3
