"""Events on a real database: when they are made, that each is made once, and who is given them when."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from fakes.books import Books
from sqlalchemy import Engine, text

from quillgate_core.allowance_event import AllowanceEvent, event_body
from quillgate_core.errors import Overloaded
from quillgate_core.storage.engine import make_engine
from quillgate_core.storage.event_store import SqlEventStore

TEST_CLOCK = "(SELECT now FROM test_clock)"
ALL = ["50", "80", "100"]


class EventSite:
    """Workspaces with sums of days, and a clock that stands at noon of the first of May 2030."""

    def __init__(self, engine: Engine) -> None:
        self.books = Books(engine)
        self.books.run("CREATE TABLE test_clock (now timestamptz)")
        self.books.run("INSERT INTO test_clock VALUES ('2030-05-01 12:00:00Z')")
        self.store = SqlEventStore(engine, clock=TEST_CLOCK)
        self.books.add_workspace()

    def set_time(self, now: str) -> None:
        """Move the clock."""
        self.books.run("UPDATE test_clock SET now = CAST(:now AS timestamptz)", now=now)

    def pass_time(self, seconds: int) -> None:
        """Move the clock on."""
        self.books.run("UPDATE test_clock SET now = now + make_interval(secs => :seconds)", seconds=seconds)

    def allow(self, *, daily: int | None = None, monthly: int | None = None, workspace_id: str = "ws") -> None:
        """Set the allowances."""
        self.books.run(
            "UPDATE workspaces SET daily_message_allowance = :daily, monthly_message_allowance = :monthly "
            "WHERE workspace_id = :id",
            daily=daily,
            monthly=monthly,
            id=workspace_id,
        )

    def count(self, messages: int, *, day: str = "2030-05-01", held: int = 0, workspace_id: str = "ws") -> None:
        """Let a day have so many counted messages."""
        self.books.run(
            "INSERT INTO daily_message_count (workspace_id, day, message_count, held_messages, byok_message_count) "
            "VALUES (:id, CAST(:day AS date), :messages, :held, 1000) ON CONFLICT (workspace_id, day) DO UPDATE "
            "SET message_count = excluded.message_count, held_messages = excluded.held_messages",
            id=workspace_id,
            day=day,
            messages=messages,
            held=held,
        )

    def noticed(self, limit: int = 100) -> list[str]:
        """What a look makes, as period and percentage; without the period where it is this day."""
        before = set(self.ids())
        made = self.store.notice(limit)
        new = [event_id for event_id in self.ids() if event_id not in before]
        assert made == len(new)
        return [event_id.removeprefix("evt_ws_").removeprefix("2030-05-01_") for event_id in new]

    def ids(self) -> list[str]:
        """All events that there are."""
        query = "SELECT event_id FROM allowance_events ORDER BY workspace_id, period, percent"
        return [event_id for (event_id,) in self.books.read(query)]

    def claim(self, limit: int = 100) -> list[AllowanceEvent]:
        """What is given out."""
        return self.store.claim(limit)

    def claimed(self, limit: int = 100) -> list[int]:
        """The percentages of what is given out."""
        return [event.percent for event in self.claim(limit)]

    def make(self, percent: int = 50) -> str:
        """Make the events up to a percentage of a daily allowance of 100, and return the highest one's id."""
        self.allow(daily=100)
        self.count(percent)
        self.store.notice(100)
        return f"evt_ws_2030-05-01_{percent}"


@pytest.fixture
def site(engine: Engine) -> EventSite:
    """A site of this test alone."""
    return EventSite(engine)


@pytest.mark.parametrize(
    ("allowance", "counted", "reached"),
    [
        (100, 49, []),
        (100, 50, ["50"]),
        (100, 79, ["50"]),
        (100, 80, ["50", "80"]),
        (100, 99, ["50", "80"]),
        (100, 100, ALL),
        (100, 1_000, ALL),
        (3, 1, []),
        (3, 2, ["50"]),
        (1, 0, []),
        (1, 1, ALL),
        (0, 0, []),
        (0, 5, []),
        (None, 5, []),
        (2**62, 2**62, ALL),
        (2**62, 2**61 - 1, []),
    ],
)
def test_an_event_is_made_when_a_percentage_is_reached(
    site: EventSite, allowance: int | None, counted: int, reached: list[str]
) -> None:
    """At the limit and not one message before it, those that were jumped over as well; none without an allowance."""
    site.allow(daily=allowance)
    site.count(counted)
    assert site.noticed() == reached
    assert site.noticed() == []


def test_a_growing_count_makes_each_event_once(site: EventSite) -> None:
    """Every one when it is reached, with the count and the allowance of that moment."""
    site.allow(daily=10)
    found = []
    for messages in range(13):
        site.count(messages)
        found += [(messages, percent) for percent in site.noticed()]
    assert found == [(5, "50"), (8, "80"), (10, "100")]
    query = "SELECT percent, allowance_messages, message_count FROM allowance_events ORDER BY percent"
    assert [tuple(row) for row in site.books.read(query)] == [(50, 10, 5), (80, 10, 8), (100, 10, 10)]


def test_only_counted_messages_count(site: EventSite) -> None:
    """Those that are held may be given back, and those with the workspace's own keys draw on nothing."""
    site.allow(daily=10)
    site.count(4, held=6)
    assert site.noticed() == []


def test_a_raised_allowance_makes_no_second_event(site: EventSite) -> None:
    """What was told for a period is told; the percentages that were not reached before still are."""
    site.allow(daily=10)
    site.count(8)
    assert site.noticed() == ["50", "80"]
    site.allow(daily=100)
    site.count(80)
    assert site.noticed() == []
    site.count(100)
    assert site.noticed() == ["100"]


def test_a_lowered_allowance_is_noticed(site: EventSite) -> None:
    """What has been used counts against the allowance as it is now."""
    site.allow(daily=100)
    site.count(50)
    assert site.noticed() == ["50"]
    site.allow(daily=50)
    assert site.noticed() == ["80", "100"]


def test_every_day_has_events_of_its_own(site: EventSite) -> None:
    """The next day begins anew."""
    site.make(100)
    site.set_time("2030-05-02 12:00:00Z")
    assert site.noticed() == []
    site.count(50, day="2030-05-02")
    assert site.noticed() == ["2030-05-02_50"]


def test_the_monthly_allowance_has_events_of_its_own(site: EventSite) -> None:
    """The month's sum counts, without the days of the months around it; both kinds are made side by side."""
    site.allow(daily=1_000, monthly=100)
    site.count(1_000, day="2030-04-30")
    site.count(1_000, day="2030-06-01")
    site.count(49)
    assert site.noticed() == []
    site.set_time("2030-05-15 12:00:00Z")
    site.count(30, day="2030-05-15")
    assert site.noticed() == ["2030-05_50"]
    site.set_time("2030-05-31 12:00:00Z")
    site.allow(daily=10, monthly=100)
    site.count(5, day="2030-05-31")
    assert site.noticed() == ["2030-05_80", "2030-05-31_50"]
    site.count(21, day="2030-05-31")
    assert site.noticed() == ["2030-05_100", "2030-05-31_80", "2030-05-31_100"]
    query = "SELECT allowance_messages, message_count FROM allowance_events WHERE event_id = 'evt_ws_2030-05_100'"
    assert [tuple(row) for row in site.books.read(query)] == [(100, 100)]


def test_a_period_is_looked_at_for_an_hour_after_its_end(site: EventSite) -> None:
    """Requests that began before midnight are charged on their day; after the hour what is charged is not told."""
    site.set_time("2030-05-31 23:59:59Z")
    site.allow(daily=10, monthly=100)
    site.count(45, day="2030-05-01")
    assert site.noticed() == []
    site.set_time("2030-06-01 00:59:59Z")
    site.count(5, day="2030-05-31")
    assert site.noticed() == ["2030-05_50", "2030-05-31_50"]
    site.set_time("2030-06-01 01:00:01Z")
    site.count(100, day="2030-05-31")
    assert site.noticed() == []


def test_a_look_is_bounded(site: EventSite) -> None:
    """However many workspaces reach something at once; the lower percentages come first."""
    for number in range(4):
        site.books.add_workspace(f"ws{number}", allowance=10)
        site.count(10, workspace_id=f"ws{number}")
    assert [site.store.notice(5) for _ in range(4)] == [5, 5, 2, 0]
    assert len(site.ids()) == 12


def test_looks_at_the_same_time_make_each_event_once(site: EventSite, database_url: str) -> None:
    """Any number of replicas may look; one of them does, and no error comes of it."""
    site.allow(daily=10)
    site.count(10)
    engines = [make_engine(database_url) for _ in range(4)]
    stores = [SqlEventStore(engine, clock=TEST_CLOCK) for engine in engines]
    with ThreadPoolExecutor(4) as threads:
        made = sum(threads.map(lambda store: store.notice(100), stores * 10))
    for engine in engines:
        engine.dispose()
    assert (made, len(site.ids())) == (3, 3)


def test_a_look_does_not_wait_for_another(site: EventSite, engine: Engine) -> None:
    """While one replica looks, the others go on at once."""
    site.allow(daily=10)
    site.count(10)
    with engine.begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:id)"), {"id": 0x51476576656E7473})
        assert site.store.notice(100) == 0
    assert site.store.notice(100) == 3


def test_an_event_is_given_out_whole(site: EventSite) -> None:
    """With everything that the receiver is told, and the workspace's name of now."""
    site.make(50)
    site.books.run("UPDATE workspaces SET name = 'Team Blau'")
    (event,) = site.claim()
    assert event == AllowanceEvent(
        event_id="evt_ws_2030-05-01_50",
        workspace_id="ws",
        workspace_name="Team Blau",
        period="2030-05-01",
        percent=50,
        allowance_messages=100,
        message_count=50,
        create_time=datetime(2030, 5, 1, 12, tzinfo=UTC),
        attempt_count=0,
    )
    assert json.loads(event_body(event))["timestamp"] == "2030-05-01T12:00:00Z"


def test_what_is_claimed_is_left_alone_for_a_minute(site: EventSite) -> None:
    """A process that dies between sending and noting leaves an event that is given out again."""
    site.make(50)
    assert site.claimed() == [50]
    site.pass_time(59)
    assert site.claimed() == []
    site.pass_time(1)
    assert site.claimed() == [50]


def test_what_was_delivered_is_never_given_out_again(site: EventSite) -> None:
    """Delivered is delivered, whatever is noted of it later by a replica that was slow."""
    event_id = site.make(50)
    site.claim()
    site.store.mark_delivered(event_id)
    assert site.store.put_off(event_id, 5)
    site.store.give_up(event_id)
    site.pass_time(100_000)
    assert site.claimed() == []
    (row,) = site.books.read("SELECT attempt_count, next_attempt_time, deliver_time FROM allowance_events")
    assert tuple(row) == (1, None, datetime(2030, 5, 1, 12, tzinfo=UTC))


def test_what_was_put_off_comes_again_after_its_pause(site: EventSite) -> None:
    """With the number of attempts that failed, which the next pause follows from."""
    event_id = site.make(50)
    for attempts in range(3):
        (event,) = site.claim()
        assert event.attempt_count == attempts
        assert site.store.put_off(event_id, 10)
        site.pass_time(9)
        assert site.claimed() == []
        site.pass_time(1)


def test_an_event_is_tried_for_a_day(site: EventSite) -> None:
    """A pause that ends within 24 hours of its making is the last one; then it is given up."""
    event_id = site.make(50)
    site.pass_time(86_390)
    site.claim()
    assert site.store.put_off(event_id, 10)
    site.pass_time(10)
    assert site.claimed() == [50]
    assert not site.store.put_off(event_id, 10)
    site.pass_time(1_000)
    assert site.claimed() == []


def test_what_was_given_up_is_never_given_out_again(site: EventSite) -> None:
    """Nor is it made again."""
    event_id = site.make(50)
    site.claim()
    site.store.give_up(event_id)
    site.pass_time(1_000)
    assert (site.claimed(), site.noticed()) == ([], [])


def test_percentages_are_tried_in_order(site: EventSite) -> None:
    """A higher one waits until the lower ones were tried once; one that fails holds up the others no longer."""
    site.make(100)
    assert site.claimed() == [50]
    assert site.claimed() == []
    site.store.put_off("evt_ws_2030-05-01_50", 3_000)
    assert site.claimed() == [80]
    site.store.mark_delivered("evt_ws_2030-05-01_80")
    assert site.claimed() == [100]
    site.pass_time(3_000)
    assert site.claimed() == [50, 100]


def test_workspaces_and_periods_do_not_wait_for_each_other(site: EventSite) -> None:
    """Only percentages of the same allowance have an order."""
    site.books.add_workspace("other", allowance=10)
    site.count(5, workspace_id="other")
    site.allow(daily=10, monthly=10)
    site.count(10)
    site.noticed()
    assert sorted(event.event_id for event in site.claim()) == [
        "evt_other_2030-05-01_50",
        "evt_ws_2030-05-01_50",
        "evt_ws_2030-05_50",
    ]


def test_an_event_is_given_to_one_replica(site: EventSite, database_url: str) -> None:
    """Of many that ask at the same moment, each gets events of its own, and none waits."""
    for number in range(30):
        site.books.add_workspace(f"ws{number}", allowance=10)
        site.count(5, workspace_id=f"ws{number}")
    site.store.notice(100)
    engines = [make_engine(database_url) for _ in range(4)]
    stores = [SqlEventStore(engine, clock=TEST_CLOCK) for engine in engines]
    with ThreadPoolExecutor(4) as threads:
        batches = list(threads.map(lambda store: store.claim(3), stores * 4))
    for engine in engines:
        engine.dispose()
    given = [event.event_id for batch in batches for event in batch]
    assert max(len(batch) for batch in batches) <= 3
    assert len(given) == len(set(given)) == 30


@pytest.fixture
def away() -> Iterator[SqlEventStore]:
    """A store whose database is not there."""
    engine = make_engine("postgresql://127.0.0.1:1/none", pool_wait_s=0.1)
    yield SqlEventStore(engine)
    engine.dispose()


def test_a_database_that_is_away_is_told(away: SqlEventStore) -> None:
    """Every method raises Overloaded, for the chore to log."""
    calls = [
        lambda: away.notice(1),
        lambda: away.claim(1),
        lambda: away.mark_delivered("e"),
        lambda: away.put_off("e", 1),
        lambda: away.give_up("e"),
    ]
    for call in calls:
        with pytest.raises(Overloaded):
            call()
