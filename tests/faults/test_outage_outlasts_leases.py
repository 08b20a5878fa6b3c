"""PostgreSQL is away for longer than a lease: all leases have run out, nobody is dead, and nobody's hold is charged."""

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from fakes.books import Books
from fakes.step_writer import FakeDailyStore

from quillgate_core.counting import Usage
from quillgate_core.errors import Overloaded
from quillgate_core.metering import Metering
from quillgate_core.reservation import Receipt, Release, Reserve, Settle
from quillgate_core.storage.adjustment_store import SqlAdjustmentStore
from quillgate_core.storage.embedded import EmbeddedPostgres
from quillgate_core.storage.engine import make_engine
from quillgate_core.storage.lease_store import SqlLeaseStore
from quillgate_core.storage.ledger import Ledger, connect_ledger
from quillgate_core.storage.schema import migrate
from quillgate_core.storage.writer import GroupedWriter

LEASE_S = 3.0
USAGE = Usage(16_000, 0, 16_000)
HOLD_MESSAGES = 5


@pytest.fixture
def server() -> Iterator[EmbeddedPostgres]:
    """A database server of this test alone, migrated."""
    directory = Path(tempfile.mkdtemp(prefix="quillgate-test-"))
    with EmbeddedPostgres(directory) as server:
        engine = make_engine(server.url)
        migrate(engine)
        engine.dispose()
        yield server
    shutil.rmtree(directory)


class Replica:
    """What a core does for its rows and for those of others, ten times as fast."""

    def __init__(self, name: str, url: str) -> None:
        self.name = name
        self._engine = make_engine(url)
        self._writer = GroupedWriter(
            connect=partial(connect_ledger, url), ledger=Ledger(), correct=SqlAdjustmentStore(self._engine).correct
        )
        self.metering = Metering(
            writer=self._writer,
            daily_store=FakeDailyStore(None),
            lease_store=SqlLeaseStore(self._engine, lease_s=LEASE_S),
            instance_id=name,
        )

    @contextlib.asynccontextmanager
    async def running(self, *, renew_s: float, recover_s: float) -> AsyncIterator["Replica"]:
        """Do the chores with these pauses, in seconds."""
        self._writer.start()
        await asyncio.to_thread(self.metering.renew_lease)
        stopped = asyncio.Event()
        chores = [
            asyncio.create_task(_repeat(self.metering.renew_lease, renew_s, stopped)),
            asyncio.create_task(_repeat(self.metering.recover, recover_s, stopped)),
        ]
        try:
            yield self
        finally:
            stopped.set()
            await asyncio.gather(*chores)  # not cancelled: a thread that is asking goes on, with a connection in hand
            await asyncio.to_thread(self._writer.close, 10)
            self._engine.dispose()

    async def reserve(self, request_id: str) -> None:
        """Begin a request."""
        await self.metering.reserve(
            Reserve(workspace_id="ws", request_id=request_id, hold_messages=HOLD_MESSAGES, owner=self.name)
        )

    async def settle(self, request_id: str) -> Receipt:
        """End a request."""
        return await self.metering.settle(
            Settle(workspace_id="ws", request_id=request_id, usage=USAGE, usage_source="provider", owner=self.name)
        )


async def _repeat(chore: Callable[[], object], pause_s: float, stopped: asyncio.Event) -> None:
    while not stopped.is_set():
        with contextlib.suppress(Overloaded):
            await asyncio.to_thread(chore)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopped.wait(), pause_s)


@pytest.mark.slow
async def test_an_outage_longer_than_a_lease_charges_no_hold(server: EmbeddedPostgres) -> None:
    """A core that comes back late finds its rows as they were, though another one was back long before; the dead's
    rows are recovered in time."""
    books = Books(make_engine(server.url))
    books.add_workspace()
    eager, slow, dead = Replica("eager", server.url), Replica("slow", server.url), Replica("dead", server.url)
    async with (
        eager.running(renew_s=0.1, recover_s=0.05),
        slow.running(renew_s=LEASE_S / 3, recover_s=LEASE_S / 6),
    ):
        async with dead.running(renew_s=60, recover_s=60):
            await dead.reserve("orphan")
        await eager.reserve("1")
        await slow.reserve("2")
        await slow.reserve("3")
        books.engine.dispose()
        await asyncio.to_thread(server.stop)
        early = [asyncio.create_task(eager.settle("1")), asyncio.create_task(slow.settle("2"))]
        await asyncio.sleep(LEASE_S + 1)
        await asyncio.to_thread(server.start)
        for settling in early:
            assert (await settling).counted_messages == 2
        await asyncio.sleep(LEASE_S / 2)
        assert books.row("orphan").state == "open"
        assert (await slow.settle("3")).counted_messages == 2
        async with asyncio.timeout(2 * LEASE_S):
            while books.row("orphan").state == "open":
                await asyncio.sleep(0.1)
    assert books.states() == {"settled": 3, "recovered": 1}
    assert books.read("SELECT FROM ledger_adjustments") == []
    assert books.day().message_count == 3 * 2 + HOLD_MESSAGES
    books.check()
    books.engine.dispose()


@pytest.mark.slow
async def test_an_end_after_the_recovery_is_heard(server: EmbeddedPostgres) -> None:
    """A core that was cut off alone, and so lost its rows for real, still has them charged what they used."""
    books = Books(make_engine(server.url))
    books.add_workspace()
    cut_off = Replica("cut off", server.url)
    async with (
        Replica("other", server.url).running(renew_s=0.5, recover_s=0.2),
        cut_off.running(renew_s=60, recover_s=60),
    ):
        await cut_off.reserve("1")
        await cut_off.reserve("2")
        async with asyncio.timeout(4 * LEASE_S):
            while books.states() != {"recovered": 2}:
                await asyncio.sleep(0.1)
        assert books.day().message_count == 2 * HOLD_MESSAGES
        assert (await cut_off.settle("1")).counted_messages == 2
        release = Release(workspace_id="ws", request_id="2", owner="cut off")
        assert (await cut_off.metering.release(release)).counted_messages == 0
        assert (await cut_off.settle("1")).counted_messages == 2
    assert books.states() == {"recovered": 2}
    assert books.day().message_count == 2
    books.check()
    books.engine.dispose()
