"""Corrections of charges on a real database: who is asked about, what is added, and that nothing is added twice."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from typing import Any

import psycopg
import pytest
from fakes.books import Books
from sqlalchemy import Engine, text

from quillgate_core.adjustment import Adjustment
from quillgate_core.counting import MAX_TOKENS, Usage
from quillgate_core.errors import Overloaded, ReservationNotFound
from quillgate_core.reservation import Note, Release, Reserve, Settle, UsageSource
from quillgate_core.storage.adjustment_store import SqlAdjustmentStore
from quillgate_core.storage.engine import make_engine
from quillgate_core.storage.lease_store import SqlLeaseStore
from quillgate_core.storage.ledger import Ledger, connect_ledger

TEST_CLOCK = "(SELECT now FROM test_clock)"
GUESS = Usage(100, 0, 50)
TRUTH = Usage(40_000, 10_000, 20_000)  # 35,000 and 20,000: 4 messages


class AdjustmentSite:
    """A ledger with one workspace, and a clock that stands at a minute to midnight."""

    def __init__(self, books: Books, connection: psycopg.Connection) -> None:
        self.books = books
        self.connection = connection
        books.add_workspace(allowance=10)
        books.run("CREATE TABLE test_clock (now timestamptz)")
        books.run("INSERT INTO test_clock VALUES ('2030-05-01 23:59:00Z')")
        self.ledger = Ledger(clock=TEST_CLOCK)
        self.leases = SqlLeaseStore(books.engine, clock=TEST_CLOCK)
        self.store = SqlAdjustmentStore(books.engine, clock=TEST_CLOCK)

    def pass_time(self, seconds: int) -> None:
        """Move the clock on."""
        self.books.run("UPDATE test_clock SET now = now + make_interval(secs => :seconds)", seconds=seconds)

    def reserve(self, request_id: str, *, hold_messages: int = 1, byok: bool = False) -> None:
        """Leave a reservation open, of an owner that is dead."""
        step = Reserve(workspace_id="ws", request_id=request_id, hold_messages=hold_messages, owner="dead", byok=byok)
        self.ledger.apply(self.connection, [step])

    def settle(
        self,
        request_id: str,
        *,
        usage: Usage = GUESS,
        source: UsageSource = "estimate",
        upstream: str = "openrouter",
        upstream_request_id: str = "gen-1",
        byok: bool = False,
        cost: int | None = None,
    ) -> None:
        """Charge a request, by default with a guess."""
        self.reserve(request_id, byok=byok)
        step = Settle(
            workspace_id="ws",
            request_id=request_id,
            owner="dead",
            usage=usage,
            usage_source=source,
            upstream=upstream,
            upstream_request_id=upstream_request_id,
            byok=byok,
            cost_picodollars=cost,
            outcome="caller_gone",
        )
        self.ledger.apply(self.connection, [step])

    def recovered(self, request_id: str, *, hold_messages: int, byok: bool = False) -> None:
        """Charge the hold of a request whose core died after the first output."""
        self.reserve(request_id, hold_messages=hold_messages, byok=byok)
        note = Note(
            workspace_id="ws",
            request_id=request_id,
            owner="dead",
            upstream="openrouter",
            upstream_request_id=f"gen-{request_id}",
        )
        self.ledger.apply(self.connection, [note])
        self.leases.recover(100)

    def unsure(self, *providers: str, limit: int = 100) -> list[str]:
        """The requests that can be asked about."""
        return [row.request_id for row in self.store.unsure(providers or ["openrouter"], limit)]

    def adjust(
        self, request_id: str = "r", usage: Usage = TRUTH, cost: int | None = 7, *, source: str = "openrouter"
    ) -> Adjustment:
        """Make a charge true."""
        return self.store.adjust("ws", request_id, source=source, usage=usage, cost_picodollars=cost)

    def day(self) -> dict[str, Any]:
        """The day's sums that are not zero."""
        row = self.books.day(date(2030, 5, 1))._asdict()
        return {name: value for name, value in row.items() if value and name not in ("workspace_id", "day")}


@pytest.fixture
def site(engine: Engine, database_url: str) -> Iterator[AdjustmentSite]:
    """The site; its books are checked at the end."""
    with connect_ledger(database_url) as connection:
        site = AdjustmentSite(Books(engine), connection)
        yield site
        site.books.check()


def test_a_guess_is_unsure_from_five_seconds_to_a_day(site: AdjustmentSite) -> None:
    """A provider knows nothing of the newest, and is not asked for ever; the row says all that asking needs."""
    site.settle("r", byok=True)
    assert site.unsure() == []
    site.pass_time(6)
    (row,) = site.store.unsure(["openrouter"], 100)
    assert (row.workspace_id, row.request_id, row.provider) == ("ws", "r", "openrouter")
    assert (row.upstream_request_id, row.byok) == ("gen-1", True)
    assert row.settle_time.isoformat() == "2030-05-01T23:59:00+00:00"
    site.pass_time(86_393)
    assert site.unsure() == ["r"]
    site.pass_time(2)
    assert site.unsure() == []


def test_only_charged_guesses_with_an_id_are_unsure(site: AdjustmentSite) -> None:
    """What the provider told, what cannot be asked about, what is open and what was free is left alone."""
    site.settle("guess")
    site.settle("told", source="provider")
    site.settle("no id", upstream_request_id="")
    site.settle("elsewhere", upstream="openai")
    site.reserve("open")
    site.reserve("free")
    site.ledger.apply(site.connection, [Release(workspace_id="ws", request_id="free", owner="dead")])
    site.pass_time(10)
    assert site.unsure() == ["guess"]
    assert site.unsure("openai") == ["elsewhere"]
    assert sorted(site.unsure("openai", "openrouter")) == ["elsewhere", "guess"]
    assert site.store.unsure([], 100) == []


def test_the_newest_are_found_first(site: AdjustmentSite) -> None:
    """With more than can be asked about, old ones that nobody knows do not keep out the new."""
    for number in range(4):
        site.settle(f"r{number}")
        site.pass_time(1)
    site.pass_time(10)
    assert site.unsure(limit=3) == ["r3", "r2", "r1"]


def test_a_guess_becomes_true(site: AdjustmentSite) -> None:
    """The difference is added to the row's own day, however late it is learnt; the row itself never changes."""
    site.settle("r", cost=5)
    before = site.books.row("r")
    site.pass_time(3_600)
    assert site.adjust() == Adjustment(3, 39_900, 10_000, 19_950, 2)
    assert site.books.row("r") == before
    assert site.day() == {
        "message_count": 4,
        "input_tokens": 40_000,
        "cached_tokens": 10_000,
        "output_tokens": 20_000,
        "request_count": 1,
        "cost_picodollars": 7,
    }
    assert site.unsure() == []


def test_a_recovered_hold_becomes_true(site: AdjustmentSite) -> None:
    """What a dead core held too much is given back, to the last message."""
    site.recovered("r", hold_messages=9)
    site.pass_time(10)
    assert site.unsure() == ["r"]
    assert site.day() == {"message_count": 9, "request_count": 1, "unpriced_request_count": 1}
    assert site.adjust(usage=Usage(10, 0, 5), cost=3) == Adjustment(-8, 10, 0, 5, 3)
    assert site.day() == {
        "message_count": 1,
        "input_tokens": 10,
        "output_tokens": 5,
        "request_count": 1,
        "cost_picodollars": 3,
    }


@pytest.mark.parametrize("is_recovered", [False, True])
def test_what_an_own_key_served_is_corrected_apart(site: AdjustmentSite, is_recovered: bool) -> None:
    """The columns of workspaces' own keys change, and no other."""
    if is_recovered:
        site.recovered("r", hold_messages=6, byok=True)
    else:
        site.settle("r", byok=True)
    assert site.adjust().counted_messages == (-2 if is_recovered else 3)
    assert site.day() == {
        "byok_message_count": 4,
        "byok_input_tokens": 40_000,
        "byok_output_tokens": 20_000,
        "byok_request_count": 1,
        "byok_cost_picodollars": 7,
    }


def test_an_overrun_is_recorded(site: AdjustmentSite) -> None:
    """True usage beyond the allowance is counted, and the next request is refused."""
    site.settle("r")
    assert site.adjust(usage=Usage(320_000, 0, 0)).counted_messages == 19
    assert site.day()["message_count"] == 20
    step = Reserve(workspace_id="ws", request_id="next", hold_messages=1, owner="dead")
    (outcome,) = site.ledger.apply(site.connection, [step])
    assert type(outcome).__name__ == "AllowanceExhausted"


def test_nothing_is_below_one_message(site: AdjustmentSite) -> None:
    """A request that used nothing still counts one."""
    site.settle("r")
    assert site.adjust(usage=Usage()) == Adjustment(0, -100, 0, -50, 7)
    assert site.day() == {"message_count": 1, "request_count": 1, "cost_picodollars": 7}


def test_insane_usage_is_clamped(site: AdjustmentSite) -> None:
    """A provider's mistake is charged as far as it makes sense, as anywhere."""
    site.settle("r", usage=Usage())
    assert site.adjust(usage=Usage(10**12, 10**13, -5), cost=None).prompt_tokens == MAX_TOKENS
    assert site.day()["cached_tokens"] == MAX_TOKENS


def test_a_cost_that_is_not_told_stays(site: AdjustmentSite) -> None:
    """Without a cost the recorded one stays, and a request without price stays one."""
    site.settle("r", cost=5)
    site.settle("unpriced")
    assert site.adjust("r", cost=None).cost_picodollars is None
    assert site.adjust("unpriced", cost=None).cost_picodollars is None
    assert (site.day()["cost_picodollars"], site.day()["unpriced_request_count"]) == (5, 1)


def test_a_source_is_heard_once(site: AdjustmentSite) -> None:
    """Saying it again changes nothing and gives the first answer, also when it says something else."""
    site.settle("r")
    first = site.adjust()
    day = site.day()
    assert site.adjust() == first
    assert site.adjust(usage=Usage(1, 0, 1), cost=1) == first
    assert site.day() == day


def test_a_second_source_corrects_the_first(site: AdjustmentSite) -> None:
    """The sum of row and corrections is what was said last; what had no price has one once."""
    site.settle("r")
    site.adjust()
    assert site.adjust(usage=Usage(10, 0, 5), cost=3, source="auditor") == Adjustment(-3, -39_990, -10_000, -19_995, -4)
    assert site.day() == {
        "message_count": 1,
        "input_tokens": 10,
        "output_tokens": 5,
        "request_count": 1,
        "cost_picodollars": 3,
    }


def test_what_was_not_charged_cannot_be_corrected(site: AdjustmentSite) -> None:
    """Open, released and unknown requests are refused, and another workspace's are unknown."""
    site.reserve("open")
    site.reserve("free")
    site.ledger.apply(site.connection, [Release(workspace_id="ws", request_id="free", owner="dead")])
    site.settle("r")
    for request_id in ("open", "free", "unknown"):
        with pytest.raises(ReservationNotFound):
            site.adjust(request_id)
    with pytest.raises(ReservationNotFound):
        site.store.adjust("other", "r", source="openrouter", usage=TRUTH, cost_picodollars=1)
    assert site.books.read("SELECT FROM ledger_adjustments") == []


def test_rows_written_by_others_work(site: AdjustmentSite) -> None:
    """A row needs nothing but its columns, whoever inserted it."""
    site.books.add_ledger_day(date(2030, 5, 1))
    site.books.run("INSERT INTO daily_message_count (workspace_id, day, message_count, request_count,"
                   " unpriced_request_count) VALUES ('ws', '2030-05-01', 3, 1, 1)")  # fmt: skip
    site.books.run(
        "INSERT INTO ledger (workspace_id, request_id, day, state, nonce, endpoint, model, upstream, held_messages,"
        " counted_messages, usage_source, reserve_time, settle_time, upstream_request_id) VALUES ('ws', 'r',"
        " '2030-05-01', 'recovered', 1, 'chat.completions', 'm', 'openrouter', 3, 3, 'hold', '2030-05-01 23:58Z',"
        " '2030-05-01 23:58:30Z', 'gen-9')"
    )
    assert site.unsure() == ["r"]
    assert site.adjust(usage=Usage(10, 0, 5)).counted_messages == -2


def test_cores_that_correct_at_once_add_it_once(site: AdjustmentSite) -> None:
    """Racing corrections of the same and of other rows, and charges between them, leave true sums."""
    for number in range(10):
        site.settle(f"r{number}")
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(site.adjust, [f"r{number % 10}" for number in range(40)]))
    assert {answer.counted_messages for answer in answers} == {3}
    assert site.day()["message_count"] == 40
    assert len(site.books.read("SELECT FROM ledger_adjustments")) == 10


def test_a_correction_takes_its_locks_in_the_order_of_the_ledger(site: AdjustmentSite) -> None:
    """While another transaction has the daily row, a correction waits without holding anything else: no deadlock."""
    site.settle("r")
    waiting = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    with ThreadPoolExecutor(1) as pool, site.books.engine.begin() as holder:
        holder.execute(text("SELECT FROM daily_message_count FOR UPDATE"))
        correction = pool.submit(site.adjust)
        while not correction.done() and not site.books.read(waiting):
            pass
        assert len(holder.execute(text("SELECT FROM ledger FOR UPDATE NOWAIT")).all()) == 1
        assert holder.execute(text("SELECT FROM ledger_adjustments")).all() == []
        holder.commit()
        assert correction.result().counted_messages == 3


def test_a_database_that_is_away_is_told_as_overloaded() -> None:
    """Both methods say that trying again may help."""
    engine = make_engine("postgresql://nobody@127.0.0.1:9/nothing")
    store = SqlAdjustmentStore(engine)
    with pytest.raises(Overloaded):
        store.unsure(["openrouter"], 1)
    with pytest.raises(Overloaded):
        store.adjust("ws", "r", source="openrouter", usage=TRUTH, cost_picodollars=None)
    engine.dispose()
