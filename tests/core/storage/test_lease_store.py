"""Leases, and the recovery of rows that nobody will end: the hold is charged, exactly once."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date

import psycopg
import pytest
from fakes.books import Books
from sqlalchemy import Engine, text

from quillgate_core.app import RECOVER_S
from quillgate_core.counting import Usage
from quillgate_core.errors import ReservationClosed
from quillgate_core.reservation import Receipt, Release, Reserve, Settle
from quillgate_core.storage.lease_store import LEASE_S, SqlLeaseStore
from quillgate_core.storage.ledger import Ledger, connect_ledger

LOCK_S = 2
"""What a statement may take."""
TEST_CLOCK = "(SELECT now FROM test_clock)"


class LeaseSite:
    """A ledger and a lease store on one database and one clock, which stands at a minute to midnight."""

    def __init__(self, books: Books, connection: psycopg.Connection) -> None:
        self.books = books
        self.connection = connection
        books.add_workspace()
        books.run("CREATE TABLE test_clock (now timestamptz)")
        books.run("INSERT INTO test_clock VALUES ('2030-05-01 23:59:00Z')")
        self.ledger = Ledger(clock=TEST_CLOCK)
        self.store = SqlLeaseStore(books.engine, clock=TEST_CLOCK)

    def pass_time(self, seconds: int) -> None:
        """Move the clock on."""
        self.books.run("UPDATE test_clock SET now = now + make_interval(secs => :seconds)", seconds=seconds)

    def reserve(self, request_id: str, *, owner: str | None, hold_messages: int = 4, expire_s: int = 600) -> None:
        """Leave a reservation open."""
        step = Reserve(
            workspace_id="ws", request_id=request_id, hold_messages=hold_messages, owner=owner, expire_s=expire_s
        )
        self.ledger.apply(self.connection, [step])


@pytest.fixture
def site(engine: Engine, database_url: str) -> Iterator[LeaseSite]:
    """The site; its books are checked at the end."""
    with connect_ledger(database_url) as connection:
        site = LeaseSite(Books(engine), connection)
        yield site
        site.books.check()


def test_i07_a_dead_owner_holds_nothing_for_longer_than_45_seconds(site: LeaseSite) -> None:
    """What a process leaves open when it dies right after a renewal is recovered by the first look after its lease."""
    site.store.renew("a")
    site.reserve("r", owner="a")
    site.pass_time(LEASE_S - 1)
    assert site.store.recover(10) == 0
    site.pass_time(1)
    assert site.store.recover(10) == 1
    assert LEASE_S + RECOVER_S + LOCK_S <= 45


def test_a_lease_is_held_for_thirty_seconds(site: LeaseSite) -> None:
    """Renewing tells whether the lease held without a gap; there is none before the first time."""
    assert not site.store.renew("a")
    site.pass_time(29)
    assert site.store.renew("a")
    site.pass_time(30)
    assert not site.store.renew("a")
    assert site.store.renew("a")


def test_a_lease_may_be_of_another_length(site: LeaseSite) -> None:
    """It is a setting of the store, the same for all that renew through it."""
    store = SqlLeaseStore(site.books.engine, clock=TEST_CLOCK, lease_s=2)
    store.renew("a")
    site.pass_time(1)
    assert store.renew("a")
    site.pass_time(2)
    assert not store.renew("a")


def test_one_dead_owner_may_be_recovered_alone(site: LeaseSite) -> None:
    """Naming an owner leaves the rows of the others, dead or without owner, for later, and spares a living one."""
    site.store.renew("alive")
    for owner in ("dead", "other", "alive", None):
        site.reserve(f"of {owner}", owner=owner, expire_s=1)
    site.pass_time(2)
    assert site.store.recover(100, owner="dead") == 1
    assert site.store.recover(100, owner="alive") == 0
    assert site.books.row("of dead").state == "recovered"
    assert site.books.states() == {"recovered": 1, "open": 3}


def test_rows_of_a_live_owner_stay_open(site: LeaseSite) -> None:
    """Within the lease nothing is recovered; renewing extends it."""
    site.store.renew("a")
    site.reserve("r", owner="a")
    site.pass_time(20)
    site.store.renew("a")
    site.pass_time(29)
    assert site.store.recover(100) == 0
    assert site.books.states() == {"open": 1}


def test_rows_of_a_dead_owner_are_charged_their_hold(site: LeaseSite) -> None:
    """Past the lease the hold becomes the charge, on the day of the reservation, with its source named."""
    site.store.renew("dead")
    site.store.renew("alive")
    site.reserve("1", owner="dead")
    site.reserve("2", owner="dead", hold_messages=3)
    site.reserve("3", owner="alive")
    site.pass_time(20)
    site.store.renew("alive")
    site.pass_time(60)
    site.store.renew("alive")
    assert site.store.recover(100) == 2
    assert site.books.states() == {"recovered": 2, "open": 1}
    row = site.books.row("2")
    assert (row.counted_messages, row.usage_source, row.outcome) == (3, "hold", "recovered")
    assert row.settle_time is not None
    day = site.books.day(date(2030, 5, 1))
    assert (day.message_count, day.held_messages, day.request_count) == (7, 4, 2)


def test_an_owner_that_never_had_a_lease_is_dead(site: LeaseSite) -> None:
    """Rows of an unknown owner do not stay open for ever."""
    site.reserve("r", owner="unheard of")
    assert site.store.recover(100) == 1


def test_rows_are_recovered_at_once_when_a_lease_is_given_up(site: LeaseSite) -> None:
    """A process that stops in order leaves nothing to wait for; stopping twice is no error."""
    site.store.renew("a")
    site.reserve("r", owner="a")
    site.store.end("a")
    site.store.end("a")
    assert site.store.recover(100) == 1


def test_rows_without_owner_are_recovered_when_they_expire(site: LeaseSite) -> None:
    """A reservation of MeteringService lives as long as its caller said, whoever runs."""
    site.reserve("short", owner=None, expire_s=10)
    site.reserve("long", owner=None, expire_s=100)
    site.pass_time(10)
    assert site.store.recover(100) == 0
    site.pass_time(1)
    assert site.store.recover(100) == 1
    assert site.books.row("short").state == "recovered"
    assert site.books.row("long").state == "open"


def test_a_recovered_row_is_closed(site: LeaseSite) -> None:
    """An owner that comes back late hears from the ledger that its row was recovered; the row stays as it is."""
    site.reserve("r", owner="late")
    site.store.recover(100)
    usage = Usage(10, 0, 5)
    outcomes = site.ledger.apply(
        site.connection,
        [
            Settle(workspace_id="ws", request_id="r", usage=usage, usage_source="provider", owner="late"),
            Release(workspace_id="ws", request_id="r", owner="late"),
        ],
    )
    for outcome in outcomes:
        assert isinstance(outcome, ReservationClosed)
        assert outcome.metadata == {"request_id": "r", "state": "recovered"}
    assert site.books.day().message_count == 4


def test_ended_rows_are_left_alone(site: LeaseSite) -> None:
    """Settled and released rows of a dead owner do not change."""
    usage = Usage(10, 0, 5)
    for request_id in ("1", "2"):
        site.reserve(request_id, owner="dead")
    outcomes = site.ledger.apply(
        site.connection,
        [
            Settle(workspace_id="ws", request_id="1", usage=usage, usage_source="provider", owner="dead"),
            Release(workspace_id="ws", request_id="2", owner="dead"),
        ],
    )
    assert all(isinstance(outcome, Receipt) for outcome in outcomes)
    assert site.store.recover(100) == 0
    assert site.books.states() == {"settled": 1, "released": 1}


def test_recovery_is_limited_and_continues(site: LeaseSite) -> None:
    """A round takes at most so many rows, and the next one goes on, also over several days."""
    for number in range(5):
        site.reserve(f"a{number}", owner="dead")
    site.pass_time(120)
    for number in range(5):
        site.reserve(f"b{number}", owner="dead")
    assert [site.store.recover(4) for _ in range(4)] == [4, 4, 2, 0]
    assert site.books.day(date(2030, 5, 1)).message_count == 20
    assert site.books.day(date(2030, 5, 2)).message_count == 20


def test_two_cores_may_recover_at_once(site: LeaseSite) -> None:
    """Racing recoveries charge each row once."""
    for round_number in range(5):
        for number in range(10):
            site.reserve(f"{round_number}.{number}", owner="dead", hold_messages=1)
        with ThreadPoolExecutor(4) as pool:
            counts = list(pool.map(site.store.recover, [100] * 4))
        assert sum(counts) == 10
    assert site.books.day().message_count == 50


def test_old_leases_are_forgotten(site: LeaseSite) -> None:
    """The lease of a process that died long ago does not stay for ever."""
    site.store.renew("old")
    site.pass_time(86_400 + 31)
    site.store.renew("new")
    site.store.recover(100)
    assert [row[0] for row in site.books.read("SELECT instance_id FROM core_instances")] == ["new"]


def test_recovery_takes_its_locks_in_the_order_of_the_ledger(site: LeaseSite) -> None:
    """While another transaction has the daily row, recovery waits without holding ledger rows: no deadlock."""
    site.reserve("r", owner="dead")
    waiting = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    with ThreadPoolExecutor(1) as pool, site.books.engine.begin() as holder:
        holder.execute(text("SELECT FROM daily_message_count FOR UPDATE"))
        recovery = pool.submit(site.store.recover, 100)
        while not recovery.done() and not site.books.read(waiting):
            pass
        assert len(holder.execute(text("SELECT FROM ledger FOR UPDATE NOWAIT")).all()) == 1
        holder.commit()
        assert recovery.result() == 1
