"""The ledger against a pure model: any sequence of batches, repeats, recoveries and corrections, over the real SQL."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import msgspec
import psycopg
from fakes.books import Books
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from sqlalchemy import Engine

from quillgate_core.counting import Usage, counted_messages
from quillgate_core.errors import ReservationNotFound
from quillgate_core.reservation import Note, Outcome, Receipt, Record, Release, Reservation, Reserve, Settle, Step
from quillgate_core.storage.adjustment_store import SqlAdjustmentStore
from quillgate_core.storage.lease_store import SqlLeaseStore
from quillgate_core.storage.ledger import Ledger, connect_ledger

OWNERS: Final = st.sampled_from(["dead", "alive", None])
REQUEST_IDS: Final = st.sampled_from([f"r{number}" for number in range(6)])
USAGES: Final = st.builds(
    lambda prompt, cached, completion: Usage(prompt, min(prompt, cached), completion),
    st.integers(0, 60_000),
    st.integers(0, 60_000),
    st.integers(0, 30_000),
)
NOTHING: Final = Usage()


@dataclass(frozen=True)
class Entry:
    """What the model knows of one request."""

    owner: str | None
    nonce: int
    held: int
    state: str = "open"
    counted: int = 0
    usage: Usage = NOTHING
    byok: bool = False
    added: Mapping[str, int] = field(default_factory=dict)
    """Messages that were added later, by who said so; `counted` and `usage` stay those of the row."""


class Model:
    """The rules of metering without a database; an outcome is the exception's name or what the answer shows."""

    def __init__(self, allowance: int) -> None:
        self.allowance = allowance
        self.entries: dict[str, Entry] = {}
        self.overrun = 0

    @property
    def counted(self) -> int:
        """Messages of ended requests."""
        return sum(entry.counted + sum(entry.added.values()) for entry in self.entries.values() if not entry.byok)

    @property
    def held(self) -> int:
        """Messages of open requests."""
        return sum(entry.held for entry in self.entries.values() if entry.state == "open" and not entry.byok)

    @property
    def left(self) -> int:
        """What is left, below 0 after an overrun."""
        return self.allowance - self.counted - self.held

    def apply(self, step: Step) -> tuple[object, ...]:
        """Answer one step."""
        entry = self.entries.get(step.request_id)
        if isinstance(step, Reserve):
            return self._reserve(step, entry)
        if isinstance(step, Record):
            return self._record(step, entry)
        if entry is None or entry.owner != step.owner or (isinstance(step, Note) and entry.state != "open"):
            return ("ReservationNotFound",)
        if isinstance(step, Note):
            return ("Receipt", 0, NOTHING, None)
        state = "settled" if isinstance(step, Settle) else "released"
        if entry.state == "open":
            usage = step.usage if isinstance(step, Settle) else NOTHING
            counted = counted_messages(usage) if isinstance(step, Settle) else 0
            byok = entry.byok or (isinstance(step, Settle) and step.byok)
            self.overrun += 0 if byok else max(0, counted - entry.held)
            entry = replace(entry, state=state, counted=counted, usage=usage, byok=byok)
            self.entries[step.request_id] = entry
        return self._receipt(entry) if entry.state == state else ("ReservationClosed", entry.state)

    def _reserve(self, step: Reserve, entry: Entry | None) -> tuple[object, ...]:
        if entry is None:
            if self.left < step.min_hold_messages and not step.byok:
                return ("AllowanceExhausted", str(max(0, self.left)))
            held = step.hold_messages if step.byok else min(self.left, step.hold_messages)
            entry = Entry(step.owner, step.nonce, held, byok=step.byok)
            self.entries[step.request_id] = entry
        elif step.owner is None and entry.owner is not None:
            return ("DuplicateRequest",)
        return ("Reservation", entry.state, entry.held, max(0, self.left), entry.nonce != step.nonce)

    def _record(self, step: Record, entry: Entry | None) -> tuple[object, ...]:
        if entry is None:
            counted = counted_messages(step.usage)
            self.overrun += counted
            entry = Entry(step.owner, step.nonce, 0, "settled", counted, step.usage)
            self.entries[step.request_id] = entry
        if entry.state == "open" or entry.owner != step.owner:
            return ("DuplicateRequest",)
        return self._receipt(entry) if entry.state == "settled" else ("ReservationClosed", entry.state)

    def _receipt(self, entry: Entry) -> tuple[object, ...]:
        return ("Receipt", entry.counted, entry.usage, max(0, self.left))

    def adjust(self, request_id: str, source: str, counted: int) -> int | None:
        """Make the charge `counted`, once for each source, and return what is added; None for one without charge."""
        entry = self.entries.get(request_id)
        if entry is None or entry.state not in ("settled", "recovered"):
            return None
        if source not in entry.added:
            missing = counted - entry.counted - sum(entry.added.values())
            self.overrun += 0 if entry.byok else max(0, missing)
            entry = self.entries[request_id] = replace(entry, added={**entry.added, source: missing})
        return entry.added[source]

    def recover(self) -> int:
        """Charge the holds of the dead owner's open requests."""
        dead = [key for key, entry in self.entries.items() if entry.state == "open" and entry.owner == "dead"]
        for key in dead:
            self.entries[key] = replace(self.entries[key], state="recovered", counted=self.entries[key].held)
        return len(dead)


def shown(outcome: Outcome) -> tuple[object, ...]:
    """An outcome as the model writes it."""
    if isinstance(outcome, Reservation):
        return ("Reservation", outcome.state, outcome.held_messages, outcome.remaining_messages, outcome.replayed)
    if isinstance(outcome, Receipt):
        return ("Receipt", outcome.counted_messages, outcome.usage, outcome.remaining_messages)
    metadata = getattr(outcome, "metadata", {})
    details = [metadata[key] for key in ("remaining_messages", "state") if key in metadata]
    return (type(outcome).__name__, *details)


@st.composite
def steps(draw: st.DrawFn) -> Step:
    """Any step of any request, with ids and owners that often meet."""
    ids = {"workspace_id": "", "request_id": draw(REQUEST_IDS), "owner": draw(OWNERS)}
    kind = draw(st.sampled_from(["reserve", "reserve", "settle", "settle", "release", "record", "note"]))
    byok = draw(st.sampled_from([False, False, True]))
    if kind == "reserve":
        hold_messages = draw(st.integers(1, 6))
        least = draw(st.integers(1, hold_messages))
        return Reserve(**ids, hold_messages=hold_messages, min_hold_messages=least, byok=byok)
    if kind == "settle":
        cost = draw(st.none() | st.integers(0, 10**15))
        return Settle(**ids, usage=draw(USAGES), usage_source="provider", byok=byok, cost_picodollars=cost)
    if kind == "note":
        return Note(**ids, upstream="up", upstream_request_id="gen-1")
    if kind == "release":
        return Release(**ids)
    return Record(**ids, usage=draw(USAGES))


class LedgerMachine(RuleBasedStateMachine):
    """Applies the same batches to the ledger and to the model."""

    def __init__(self, books: Books, connection: psycopg.Connection, ledger: Ledger) -> None:
        super().__init__()
        self.books = books
        self.connection = connection
        self.ledger = ledger
        self.lease_store = SqlLeaseStore(books.engine)
        self.lease_store.renew("alive")
        self.adjustments = SqlAdjustmentStore(books.engine)
        self.lease_store.recover(1_000)  # what the example before has left
        self.workspace_id = f"ws{len(books.read('SELECT FROM workspaces'))}"
        self.sent: list[Step] = []
        self.model = Model(0)

    @initialize(allowance=st.integers(0, 12))
    def begin(self, allowance: int) -> None:
        """Start with an empty workspace."""
        self.books.add_workspace(self.workspace_id, allowance=allowance)
        self.model.allowance = allowance

    @rule(batch=st.lists(steps(), min_size=1, max_size=6))
    def send(self, batch: list[Step]) -> None:
        """Apply a new batch."""
        self._apply([msgspec.structs.replace(step, workspace_id=self.workspace_id) for step in batch])

    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        """Apply steps again that were sent before, in any order."""
        if self.sent:
            self._apply(data.draw(st.lists(st.sampled_from(self.sent), min_size=1, max_size=6)))

    @rule()
    def recover(self) -> None:
        """Recover what the dead owner left."""
        assert self.lease_store.recover(1_000) == self.model.recover()

    @rule(
        request_id=REQUEST_IDS,
        source=st.sampled_from(["openrouter", "auditor"]),
        usage=USAGES,
        cost=st.none() | st.integers(0, 10**15),
    )
    def adjust(self, request_id: str, source: str, usage: Usage, cost: int | None) -> None:
        """Learn later what a request used, or hear it again."""
        expected = self.model.adjust(request_id, source, counted_messages(usage))
        try:
            adjustment = self.adjustments.adjust(
                self.workspace_id, request_id, source=source, usage=usage, cost_picodollars=cost
            )
        except ReservationNotFound:
            assert expected is None
        else:
            assert adjustment.counted_messages == expected

    def _apply(self, batch: list[Step]) -> None:
        outcomes = [shown(outcome) for outcome in self.ledger.apply(self.connection, batch)]
        assert outcomes == [self.model.apply(step) for step in batch]
        self.sent += batch

    @invariant()
    def the_daily_row_is_the_sum(self) -> None:
        """I1: the daily row is the sum of the ledger and its corrections, and the ledger is the model's."""
        query = "SELECT message_count, held_messages FROM daily_message_count WHERE workspace_id = :id"
        rows = self.books.read(query, id=self.workspace_id)
        assert [tuple(row) for row in rows] in ([(self.model.counted, self.model.held)], [])
        rows = self.books.read(
            "SELECT request_id, state, counted_messages FROM ledger WHERE workspace_id = :id", id=self.workspace_id
        )
        assert {row[0]: (row[1], row[2]) for row in rows} == {
            key: (entry.state, entry.counted) for key, entry in self.model.entries.items()
        }

    @invariant()
    def the_allowance_holds(self) -> None:
        """I2: counted and held never exceed the allowance, but for true usage beyond its hold."""
        assert self.model.counted + self.model.held <= self.model.allowance + self.model.overrun

    def teardown(self) -> None:
        """Check the sums of all columns, once an example."""
        self.books.check()


def test_i01_i02_i03_any_sequence_of_steps_follows_the_model(engine: Engine, database_url: str) -> None:
    """Reserves, ends, records, repeats, recoveries and corrections in any order do exactly what the model does."""
    books, ledger = Books(engine), Ledger()
    with connect_ledger(database_url) as connection:
        run_state_machine_as_test(
            lambda: LedgerMachine(books, connection, ledger),
            settings=settings(
                max_examples=100,
                stateful_step_count=20,
                deadline=None,
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
            ),
        )
