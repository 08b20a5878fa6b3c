"""What dead cores of this machine left behind: landed, recovered and removed by whoever starts next."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes.fake_ledger_writer import FakeLedgerWriter
from fakes.step_writer import FakeDailyStore, FakeLeaseStore

from quillgate_core.counting import Usage
from quillgate_core.errors import Overloaded, ReservationNotFound
from quillgate_core.metering import Metering
from quillgate_core.reservation import Release, Settle
from quillgate_core.storage.journal import Journal
from quillgate_core.storage.predecessors import Predecessors

SETTLE = Settle(workspace_id="ws", request_id="1", usage=Usage(10, 0, 5), usage_source="provider", owner="core_dead")
RELEASE = Release(workspace_id="ws", request_id="2", owner="core_dead")


class Successor:
    """A core that starts in a directory where others were, or are."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.writer = FakeLedgerWriter()
        self.lease_store = FakeLeaseStore()
        self.predecessors = Predecessors(
            directory,
            writer=self.writer,
            metering=Metering(
                writer=self.writer,
                daily_store=FakeDailyStore(None),
                lease_store=self.lease_store,
                instance_id="core_new",
            ),
            blocking=self._blocking,
        )

    def journal(self, name: str, *ends: Settle | Release) -> Journal:
        """Open a journal beside, with what it would hold."""
        journal = Journal(self.directory / f"{name}.jsonl")
        journal.open()
        journal.append(ends)
        return journal

    def left(self, name: str, *ends: Settle | Release) -> None:
        """Leave a journal of a process that died."""
        self.journal(name, *ends).close(keep=True)

    def files(self) -> list[str]:
        """What is in the directory."""
        return sorted(path.name for path in self.directory.iterdir())

    async def _blocking(self, call: Callable[[], Any]) -> Any:
        return await asyncio.to_thread(call)


@pytest.fixture
def successor(tmp_path: Path) -> Successor:
    """A core that starts."""
    return Successor(tmp_path / "journal")


async def test_what_the_dead_left_is_landed_and_recovered(successor: Successor) -> None:
    """Ends go to the ledger as they were; then the lease ends, the other rows are recovered, the files are gone."""
    successor.left("core_dead", SETTLE, RELEASE)
    successor.left("core_idle")
    assert await successor.predecessors.inherit() == 2
    assert successor.writer.steps == [SETTLE, RELEASE]
    assert successor.lease_store.ended == ["core_dead", "core_idle"]
    assert successor.lease_store.owners == ["core_dead", "core_dead", "core_idle"]
    assert successor.files() == []
    assert await successor.predecessors.inherit() == 0


async def test_the_living_are_left_alone(successor: Successor) -> None:
    """Another core in the same directory keeps its journal and its lease."""
    other = successor.journal("core_other", SETTLE)
    assert await successor.predecessors.inherit() == 0
    assert (successor.writer.steps, successor.lease_store.ended) == ([], [])
    assert successor.files() == ["core_other.jsonl"]
    other.close()


async def test_nothing_is_recovered_before_all_has_landed(successor: Successor) -> None:
    """While the ledger does not answer, the journal stays and the dead core's lease is not touched."""
    successor.left("core_dead", SETTLE)
    successor.writer.stalls[Settle] = asyncio.Event()
    inheriting = asyncio.create_task(successor.predecessors.inherit())
    await successor.writer.waiting.wait()
    assert (successor.lease_store.ended, successor.files()) == ([], ["core_dead.jsonl"])
    inheriting.cancel()
    await asyncio.gather(inheriting, return_exceptions=True)
    successor.writer.stalls.clear()
    assert await successor.predecessors.inherit() == 1
    assert successor.files() == []


async def test_a_writer_that_stops_leaves_the_journal_to_the_next(successor: Successor) -> None:
    """What did not land is not forgotten."""
    successor.left("core_dead", SETTLE)
    successor.writer.refusals[Settle] = Overloaded("The service stopped.")
    with pytest.raises(Overloaded):
        await successor.predecessors.inherit()
    assert (successor.lease_store.ended, successor.files()) == ([], ["core_dead.jsonl"])


async def test_a_database_that_goes_away_before_the_recovery_puts_it_off(successor: Successor) -> None:
    """The journal stays until the rows of its process are recovered; landing its ends again is harmless."""
    successor.left("core_dead", SETTLE)
    successor.lease_store.is_away = True
    with pytest.raises(Overloaded):
        await successor.predecessors.inherit()
    successor.lease_store.is_away = False
    assert await successor.predecessors.inherit() == 1
    assert successor.writer.steps == [SETTLE, SETTLE]


async def test_an_end_that_is_refused_is_logged(successor: Successor, caplog: pytest.LogCaptureFixture) -> None:
    """A row that is not there, in a restored database for instance, keeps nothing from being finished."""
    successor.left("core_dead", SETTLE, RELEASE)
    successor.writer.refusals[Settle] = ReservationNotFound("1")
    assert await successor.predecessors.inherit() == 1
    assert "the end of 1 was refused: ReservationNotFound" in caplog.text
    assert successor.files() == []


async def test_a_damaged_journal_is_set_aside(successor: Successor, caplog: pytest.LogCaptureFixture) -> None:
    """What can be read of it lands, the file stays for a person to look at, and the start goes on."""
    successor.left("core_dead", SETTLE, RELEASE)
    path = successor.directory / "core_dead.jsonl"
    path.write_bytes(b"\xff\x00" + path.read_bytes()[2:])
    assert await successor.predecessors.inherit() == 1
    assert successor.writer.steps == [RELEASE]
    assert successor.files() == ["core_dead.corrupt"]
    assert "cannot be read" in caplog.text
    assert await successor.predecessors.inherit() == 0
