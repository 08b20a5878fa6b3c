"""Limits against a pure model: any sequence of requests, changed limits and passing time, over two ledgers."""

from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

import psycopg
from fakes.books import Books
from fakes.midnight import TEST_CLOCK
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from sqlalchemy import Engine

from quillgate_core.counting import Usage, counted_messages
from quillgate_core.reservation import Outcome, Receipt, Release, Reservation, Reserve, Settle, Step
from quillgate_core.storage.lease_store import SqlLeaseStore
from quillgate_core.storage.ledger import Ledger, connect_ledger

START: Final = datetime(2030, 4, 29, 23, 58, tzinfo=UTC)
WINDOW: Final = timedelta(seconds=60)
KEY_LIMITS: Final = (
    "concurrent_requests",
    "requests_per_minute",
    "tokens_per_minute",
    "daily_messages",
    "monthly_messages",
)
LIMIT: Final = st.none() | st.integers(0, 8)
TOKEN_LIMIT: Final = st.none() | st.integers(0, 4_000)
USAGES: Final = st.builds(Usage, st.integers(0, 40_000), st.just(0), st.integers(0, 2_000))


@dataclass
class Entry:
    """What the model knows of one request."""

    day: date
    second: int
    held: int
    held_tokens: int
    state: str = "open"
    counted: int = 0

    @property
    def used(self) -> int:
        """Messages that it takes of a day's limits."""
        return self.held if self.state == "open" else self.counted


@dataclass
class Model:
    """The rules of limits without a database; an outcome is the limit that refused, or what the answer shows."""

    now: datetime = START
    entries: dict[str, Entry] = field(default_factory=dict)
    window: dict[int, list[int]] = field(default_factory=dict)
    last: dict[int, datetime] = field(default_factory=dict)
    """By second: when its last request came."""
    limits: dict[str, int | None] = field(default_factory=dict)
    allows_overage: bool = False

    @property
    def today(self) -> date:
        """The UTC day."""
        return self.now.date()

    @property
    def second(self) -> int:
        """The second of the clock."""
        return int(self.now.timestamp())

    def limit(self, name: str) -> int | None:
        """A limit's value, None for none."""
        return self.limits.get(name)

    @property
    def has_window(self) -> bool:
        """Whether something is limited by the minute."""
        return self.limit("requests_per_minute") is not None or self.limit("tokens_per_minute") is not None

    def used(self, *, month: bool) -> int:
        """Messages counted or held today or in this month."""
        first = self.today.replace(day=1) if month else self.today
        return sum(entry.used for entry in self.entries.values() if first <= entry.day <= self.today)

    def in_minute(self, index: int) -> int:
        """Requests (0) or tokens (1) that still count."""
        return sum(counts[index] for second, counts in self.window.items() if self.last[second] + WINDOW > self.now)

    def open_requests(self) -> int:
        """Requests that run, as far back as they can."""
        first = min(self.today.replace(day=1), self.today - timedelta(days=1))
        return sum(entry.state == "open" and entry.day >= first for entry in self.entries.values())

    def apply(self, step: Step) -> tuple[object, ...]:
        """Answer one step."""
        if isinstance(step, Reserve):
            return self._refused(step) or self._reserve(step)
        entry = self.entries.get(step.request_id)
        if entry is None:
            return ("ReservationNotFound",)
        usage = step.usage if isinstance(step, Settle) else Usage()
        wanted = "settled" if isinstance(step, Settle) else "released"
        if entry.state not in ("open", wanted):
            return ("ReservationClosed",)
        if entry.state == "open":
            entry.state = wanted
            entry.counted = counted_messages(usage) if isinstance(step, Settle) else 0
            if entry.day == self.today and self.has_window and entry.second in self.window:
                self.window[entry.second][1] += usage.prompt_tokens + usage.completion_tokens - entry.held_tokens
        return (entry.state, entry.counted)

    def _refused(self, step: Reserve) -> tuple[object, ...] | None:
        tokens = max(1, step.min_hold_tokens)
        for name, used, asked in (
            ("concurrent_requests", self.open_requests(), 1),
            ("requests_per_minute", self.in_minute(0), 1),
            ("tokens_per_minute", self.in_minute(1), tokens),
        ):
            limit = self.limit(name)
            if limit is not None and used + asked > limit:
                return (f"key_{name}", max(0, limit - used))
        for name, left in self._left().items():
            if left < step.min_hold_messages:
                return (name, max(0, left))
        return None

    def _left(self) -> dict[str, int]:
        """What is left of each limit in messages that refuses."""
        names = {"key_daily_messages": "daily_messages", "key_monthly_messages": "monthly_messages"}
        if not self.allows_overage:
            own = ("daily_message_allowance", "monthly_message_allowance")
            names = {name: name for name in own} | names
        return {
            name: limit - self.used(month="monthly" in name)
            for name, column in names.items()
            if (limit := self.limit(column)) is not None
        }

    def _reserve(self, step: Reserve) -> tuple[object, ...]:
        held = min([step.hold_messages, *self._left().values()])
        limit = self.limit("tokens_per_minute")
        held_tokens = 0 if limit is None else min(step.hold_tokens, limit - self.in_minute(1))
        self.entries[step.request_id] = Entry(self.today, self.second, held, held_tokens)
        if self.has_window:
            counts = self.window.setdefault(self.second, [0, 0])
            counts[0] += 1
            counts[1] += held_tokens
            self.last[self.second] = self.now
        return ("open", held, None if limit is None else held_tokens)


def shown(outcome: Outcome) -> tuple[object, ...]:
    """An outcome as the model writes it."""
    if isinstance(outcome, Reservation):
        return (outcome.state, outcome.held_messages, outcome.held_tokens)
    if isinstance(outcome, Receipt):
        return ("settled" if outcome.usage_source else "released", outcome.counted_messages)
    metadata = getattr(outcome, "metadata", {})
    if "limit" not in metadata:  # ReservationClosed
        return (type(outcome).__name__,)
    return (metadata["limit"], int(metadata.get("remaining", metadata.get("remaining_messages", -1))))


class LimitsMachine(RuleBasedStateMachine):
    """Applies the same batches to two ledgers, taking turns, and to the model."""

    def __init__(self, books: Books, connections: list[psycopg.Connection]) -> None:
        super().__init__()
        self.books = books
        self.connections = connections
        self.ledgers = [Ledger(clock=TEST_CLOCK) for _ in connections]
        self.lease_store = SqlLeaseStore(books.engine, clock=TEST_CLOCK)
        self.lease_store.recover(1_000)  # what the example before has left
        number = len(books.read("SELECT FROM workspaces"))
        self.workspace_id, self.key_id = f"ws{number}", f"key{number}"
        self.model = Model()
        self.made = 0

    @initialize()
    def begin(self) -> None:
        """Start with an empty workspace and a key."""
        self.books.add_workspace(self.workspace_id)
        self.books.add_key(self.key_id, workspace_id=self.workspace_id)
        self._put_clock()

    @rule(seconds=st.sampled_from([0.3, 1, 7, 30, 59, 60, 61, 90, 86_400]))
    def wait(self, seconds: float) -> None:
        """Let time pass, often over a midnight or the end of the month."""
        self.model.now += timedelta(seconds=seconds)
        self._put_clock()

    @rule(name=st.sampled_from(KEY_LIMITS), data=st.data())
    def limit_key(self, name: str, data: st.DataObject) -> None:
        """Change one of the key's limits."""
        value = data.draw(TOKEN_LIMIT if name == "tokens_per_minute" else LIMIT)
        self.model.limits[name] = value
        self.books.run(f"UPDATE keys SET {name} = :value WHERE key_id = :id", value=value, id=self.key_id)

    @rule(name=st.sampled_from(["daily", "monthly"]), value=LIMIT, allows_overage=st.booleans())
    def limit_workspace(self, name: str, value: int | None, allows_overage: bool) -> None:
        """Change one of the workspace's allowances, and what happens at it."""
        self.model.limits[f"{name}_message_allowance"] = value
        self.model.allows_overage = allows_overage
        self.books.run(
            f"UPDATE workspaces SET {name}_message_allowance = :value, at_allowance = :choice WHERE workspace_id = :id",
            value=value,
            choice="allow" if allows_overage else "refuse",
            id=self.workspace_id,
        )

    @rule(replica=st.integers(0, 1), data=st.data())
    def send(self, replica: int, data: st.DataObject) -> None:
        """Apply a batch of beginnings and ends through either replica."""
        batch = [self._step(data) for _ in range(data.draw(st.integers(1, 5)))]
        outcomes = self.ledgers[replica].apply(self.connections[replica], batch)
        assert [shown(outcome) for outcome in outcomes] == [self.model.apply(step) for step in batch]

    @rule()
    def recover(self) -> None:
        """Charge the holds of what is open: its owner has no lease."""
        is_open = [entry for entry in self.model.entries.values() if entry.state == "open"]
        assert self.lease_store.recover(1_000) == len(is_open)
        for entry in is_open:
            entry.state, entry.counted = "recovered", entry.held

    @invariant()
    def the_sums_are_the_model_s(self) -> None:
        """I1 for keys and workspaces: counted and held messages are those of the requests."""
        counted = sum(entry.counted for entry in self.model.entries.values())
        held = sum(entry.held for entry in self.model.entries.values() if entry.state == "open")
        query = "SELECT coalesce(sum(message_count), 0), coalesce(sum(held_messages), 0) FROM {} WHERE {} = :id"
        for table, column, name in (
            ("daily_message_count", "workspace_id", self.workspace_id),
            ("key_daily_message_count", "key_id", self.key_id),
        ):
            assert tuple(self.books.read(query.format(table, column), id=name)[0]) == (counted, held)

    def teardown(self) -> None:
        """Check the sums of all columns, once an example."""
        self.books.check()

    def _step(self, data: st.DataObject) -> Step:
        ids: dict[str, Any] = {"workspace_id": self.workspace_id, "owner": "gone", "key_id": self.key_id}
        open_ids = [request_id for request_id, entry in self.model.entries.items() if entry.state == "open"]
        kind = data.draw(st.sampled_from(["reserve", "reserve", "settle", "release"]))
        if kind == "reserve" or not open_ids:
            self.made += 1
            hold, tokens = data.draw(st.integers(1, 6)), data.draw(st.integers(0, 3_000))
            return Reserve(
                **ids,
                request_id=f"r{self.made}",
                hold_messages=hold,
                min_hold_messages=data.draw(st.integers(1, hold)),
                hold_tokens=tokens,
                min_hold_tokens=data.draw(st.integers(0, tokens)),
            )
        ids["request_id"] = data.draw(st.sampled_from(open_ids))
        if kind == "settle":
            return Settle(**ids, usage=data.draw(USAGES), usage_source="provider")
        return Release(**ids)

    def _put_clock(self) -> None:
        self.books.run("UPDATE test_clock SET now = :now", now=self.model.now)


def test_i01_i02_limits_follow_the_model(engine: Engine, database_url: str) -> None:
    """However requests, limits and time are mixed, and whichever replica is asked, admission is the model's."""
    books = Books(engine)
    books.run("CREATE TABLE test_clock (now timestamptz)")
    books.run("INSERT INTO test_clock VALUES ('2030-04-29 23:58:00Z')")
    with ExitStack() as stack:
        connections = [stack.enter_context(connect_ledger(database_url)) for _ in range(2)]
        run_state_machine_as_test(
            lambda: LimitsMachine(books, connections),
            settings=settings(
                max_examples=40,
                stateful_step_count=20,
                deadline=None,
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
            ),
        )
