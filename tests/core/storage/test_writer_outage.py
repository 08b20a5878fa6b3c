"""The grouped writer while the database is away: ends are on disk at once, land later, and correct recovered rows."""

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from datetime import date

import psycopg
import pytest
from fakes.end_journal import FakeEndJournal
from fakes.ledgers import FakeConnection, FakeLedger

from quillgate_core.counting import Usage
from quillgate_core.errors import Overloaded, QuillgateError, ReservationClosed
from quillgate_core.reservation import Note, Outcome, Receipt, Record, Release, Reserve, Settle, Step
from quillgate_core.storage.writer import GroupedWriter

USAGE = Usage(10, 0, 5)
RECEIPT = Receipt("ws", "r", date(2030, 1, 1), 1, USAGE, "provider", None)
CORRECTED = Receipt("ws", "r", date(2030, 1, 1), 3, USAGE, "provider", None)
AWAY = 10_000


def settle(request_id: str, *, owner: str | None = "a") -> Settle:
    """A settle."""
    return Settle(workspace_id="ws", request_id=request_id, usage=USAGE, usage_source="provider", owner=owner)


def release(request_id: str, *, owner: str | None = "a") -> Release:
    """A release."""
    return Release(workspace_id="ws", request_id=request_id, owner=owner)


class Outage:
    """A writer on a ledger that fails until `end`, and then answers `outcomes` by request id, else with a receipt."""

    def __init__(self, *, correct: Callable[[Settle | Release], Receipt] | None = None, **sizes: int) -> None:
        self.ledger = FakeLedger(self._answers)
        self.outcomes: dict[str, Outcome] = {}
        self.batches_until_away = 0
        self.journal = FakeEndJournal()
        self.writer = GroupedWriter(
            connect=FakeConnection, ledger=self.ledger, journal=self.journal, correct=correct, **sizes
        )
        self.begin()
        self.writer.start()

    def begin(self) -> None:
        """Take the database away."""
        self.ledger.failures += [psycopg.OperationalError() for _ in range(AWAY)]

    def end(self) -> None:
        """Bring the database back."""
        self.ledger.failures.clear()

    def landed(self) -> list[str]:
        """The requests of the steps that were applied, in order; to be asked when the database is back."""
        return [step.request_id for batch in self.ledger.batches for step in batch]

    async def journaled(self, *request_ids: str) -> None:
        """Wait until the journal holds these, in this order."""
        await until(lambda: self.journal.held == list(request_ids))

    def _answers(self, connection: psycopg.Connection, steps: Sequence[Step]) -> list[Outcome]:
        self.batches_until_away -= 1
        if self.batches_until_away == 0:
            self.begin()
        return [self.outcomes.get(step.request_id, RECEIPT) for step in steps]


async def until(condition: Callable[[], bool]) -> None:
    """Wait until the condition holds; raises TimeoutError when it does not."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture
def outage() -> Iterator[Outage]:
    """An outage, which ends with the test at the latest."""
    outage = Outage()
    yield outage
    outage.end()
    assert outage.writer.close(20)


async def test_nothing_is_written_down_while_the_database_answers(outage: Outage) -> None:
    """The journal is untouched by ends that land at once."""
    outage.end()
    for number in range(20):
        assert await outage.writer.submit(settle(f"r{number}")).outcome() == RECEIPT
    assert (outage.journal.history, outage.journal.clears) == ([], 0)


async def test_ends_are_written_down_while_it_is_away_and_forgotten_when_they_landed(outage: Outage) -> None:
    """What was in hand, and what comes while the writer waits, is on disk at once, once; all of it lands in order."""
    first = outage.writer.submit(settle("1"))
    await outage.journaled("1")
    await until(lambda: len(outage.ledger.batches) > 3)
    second = outage.writer.submit(release("2"))
    outage.writer.post(settle("3"))
    await outage.journaled("1", "2", "3")
    tries = len(outage.ledger.batches)
    await until(lambda: len(outage.ledger.batches) > tries + 1)
    assert outage.journal.held == ["1", "2", "3"]
    outage.end()
    assert [await first.outcome(), await second.outcome()] == [RECEIPT, RECEIPT]
    await outage.journaled()
    assert outage.landed()[-3:] == ["1", "2", "3"]
    assert outage.journal.clears == 1


async def test_only_what_nobody_repeats_is_written_down(outage: Outage) -> None:
    """Beginnings, notes, records and the ends of callers that repeat them are not."""
    tickets = [
        outage.writer.submit(settle("foreign", owner=None)),
        outage.writer.submit(release("foreign too", owner=None)),
        outage.writer.submit(Record(workspace_id="ws", request_id="record", usage=USAGE)),
    ]
    outage.writer.post(Note(workspace_id="ws", request_id="n", upstream="u", upstream_request_id="g", owner="a"))
    outage.writer.post(settle("own"))
    await outage.journaled("own")
    outage.end()
    await asyncio.gather(*[ticket.outcome() for ticket in tickets])
    assert outage.journal.history == ["own"]


async def test_a_reserve_of_unknown_fate_is_undone_in_the_journal_too(outage: Outage) -> None:
    """When nobody waits any more for a reserve that may have been committed, its release outlives the process."""
    waiting = asyncio.create_task(
        outage.writer.submit(Reserve(workspace_id="ws", request_id="r", hold_messages=1, owner="a")).outcome()
    )
    await until(lambda: len(outage.ledger.batches) > 1)
    waiting.cancel()
    await outage.journaled("r")
    outage.end()
    await outage.journaled()
    assert isinstance(outage.ledger.batches[-1][0], Release)


async def test_the_journal_is_kept_until_all_has_landed() -> None:
    """With more ends than a batch takes, what landed first does not empty it."""
    outage = Outage(max_batch_steps=2)
    tickets = [outage.writer.submit(settle(f"r{number}")) for number in range(5)]
    await outage.journaled("r0", "r1", "r2", "r3", "r4")
    outage.batches_until_away = 2
    outage.end()
    assert [await ticket.outcome() for ticket in tickets[:4]] == [RECEIPT] * 4
    tries = len(outage.ledger.batches)
    await until(lambda: len(outage.ledger.batches) > tries)
    assert outage.journal.held == ["r0", "r1", "r2", "r3", "r4"]
    outage.end()
    assert await tickets[4].outcome() == RECEIPT
    await outage.journaled()
    assert outage.journal.clears == 1
    assert outage.writer.close(20)


async def test_a_database_that_hangs_is_a_database_that_is_away(outage: Outage) -> None:
    """Ends are written down while an attempt neither succeeds nor fails, and land in order when it does."""
    outage.end()
    outage.ledger.gate.clear()
    tickets = [outage.writer.submit(settle("1"))]
    await asyncio.to_thread(outage.ledger.has_begun.wait)
    tickets.append(outage.writer.submit(settle("2")))
    await outage.journaled("1", "2")
    tickets.append(outage.writer.submit(settle("3")))
    await outage.journaled("1", "2", "3")
    outage.ledger.gate.set()
    assert [await ticket.outcome() for ticket in tickets] == [RECEIPT] * 3
    await outage.journaled()
    assert outage.landed() == ["1", "2", "3"]


async def test_a_writer_that_hangs_leaves_the_journal_when_it_stops(outage: Outage) -> None:
    """Closing does not wait for the watch to come round: what is in hand and what is queued is on disk then."""
    outage.end()
    outage.ledger.gate.clear()
    for number in range(1_000):
        outage.writer.post(settle(f"r{number}"))
    await asyncio.to_thread(outage.ledger.has_begun.wait)
    assert not await asyncio.to_thread(outage.writer.close, 0)
    assert sorted(outage.journal.held) == sorted(f"r{number}" for number in range(1_000))
    outage.ledger.gate.set()


async def test_a_full_disk_costs_no_end(outage: Outage, caplog: pytest.LogCaptureFixture) -> None:
    """A journal that cannot be written is logged as an error, the ends land from memory, and it is tried again."""
    outage.journal.is_full = True
    with caplog.at_level(logging.ERROR):
        ticket = outage.writer.submit(settle("1"))
        await until(lambda: "in memory only" in caplog.text)
    outage.journal.is_full = False
    await outage.journaled("1")
    outage.journal.is_full = True
    outage.end()
    with caplog.at_level(logging.ERROR):
        assert await ticket.outcome() == RECEIPT
        await until(lambda: "cannot be emptied" in caplog.text)


async def test_a_step_that_can_never_land_does_not_stay_in_the_journal(outage: Outage) -> None:
    """It fails alone, as always, and the journal is emptied."""
    ticket = outage.writer.submit(settle("1"))
    await outage.journaled("1")
    outage.ledger.failures[:] = [psycopg.DataError()]
    assert type(await ticket.outcome()) is QuillgateError
    await outage.journaled()


async def test_a_writer_that_stops_leaves_the_journal(outage: Outage) -> None:
    """Closed while the database is away, it says so in time, answers whoever waits, and everything is on disk."""
    waiting = [outage.writer.submit(settle(f"r{number}")) for number in range(3)]
    await outage.journaled("r0", "r1", "r2")
    assert not await asyncio.to_thread(outage.writer.close, 0.1)
    for ticket in waiting:
        assert isinstance(await ticket.outcome(), Overloaded)
    assert outage.journal.held == ["r0", "r1", "r2"]


async def test_what_waits_counts_as_queued() -> None:
    """Beginnings are refused when the queue and what was taken from it are full together; ends of own ones are not."""
    outage = Outage(max_queue_steps=3)
    outage.writer.post(settle("1"))
    await outage.journaled("1")
    for number in range(3):
        outage.writer.submit(settle(f"foreign {number}", owner=None))
    await asyncio.sleep(0.1)
    with pytest.raises(Overloaded):
        outage.writer.submit(settle("one more", owner=None))
    outage.writer.post(settle("2"))
    await outage.journaled("1", "2")
    outage.end()
    assert outage.writer.close(20)


class Corrections:
    """Corrects by writing down, after as many failures as `failures` holds."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.asked: list[Settle | Release] = []

    def __call__(self, end: Settle | Release) -> Receipt:
        """Note the end."""
        self.asked.append(end)
        if self.failures:
            raise self.failures.pop(0)
        return CORRECTED


async def answers(correct: Corrections, state: str, *steps: Step) -> list[Outcome]:
    """Submit steps for rows that are in this state already."""
    outage = Outage(correct=correct)
    outage.end()
    outage.outcomes = {step.request_id: ReservationClosed(step.request_id, state) for step in steps}
    tickets = [outage.writer.submit(step) for step in steps]
    outcomes = [await ticket.outcome() for ticket in tickets]
    assert await asyncio.to_thread(outage.writer.close, 20)
    assert outage.journal.held == []
    return outcomes


async def test_an_own_end_of_a_recovered_row_corrects_its_charge() -> None:
    """A Settle and a Release by the owner are answered with what is charged now."""
    correct = Corrections()
    steps = [settle("1"), release("2")]
    assert await answers(correct, "recovered", *steps) == [CORRECTED, CORRECTED]
    assert correct.asked == steps


async def test_the_end_of_a_foreign_row_stays_refused() -> None:
    """A caller of MeteringService hears that its reservation was closed, as the contract says."""
    correct = Corrections()
    (outcome,) = await answers(correct, "recovered", settle("1", owner=None))
    assert isinstance(outcome, ReservationClosed)
    assert correct.asked == []


@pytest.mark.parametrize("state", ["settled", "released"])
async def test_a_row_that_its_owner_has_ended_is_not_corrected(state: str) -> None:
    """Only what was recovered is a guess."""
    correct = Corrections()
    (outcome,) = await answers(correct, state, settle("1"))
    assert isinstance(outcome, ReservationClosed)
    assert correct.asked == []


async def test_a_correction_is_tried_until_it_is_made() -> None:
    """A database that goes away after the ledger's answer only puts it off."""
    correct = Corrections(Overloaded("away"), Overloaded("away"), Overloaded("away"))
    assert await answers(correct, "recovered", settle("1"), settle("2")) == [CORRECTED, CORRECTED]
    assert len(correct.asked) == 5


async def test_a_correction_that_can_never_be_made_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    """A mistake of ours is logged and does not stop the writer; the row stays charged as it was."""
    (outcome,) = await answers(Corrections(ReservationClosed("1", "odd")), "recovered", settle("1"))
    assert isinstance(outcome, ReservationClosed)
    assert "the charge of 1 cannot be corrected" in caplog.text


async def test_a_correction_that_waits_is_written_down() -> None:
    """What was learnt too late outlives the process as well."""
    correct = Corrections(*[Overloaded("away")] * AWAY)
    outage = Outage(correct=correct)
    outage.outcomes = {"1": ReservationClosed("1", "recovered")}
    outage.end()
    ticket = outage.writer.submit(settle("1"))
    await outage.journaled("1")
    assert not await asyncio.to_thread(outage.writer.close, 0.1)
    assert isinstance(await ticket.outcome(), Overloaded)
    assert outage.journal.held == ["1"]
