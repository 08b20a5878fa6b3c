"""I10: whatever order two replicas see a repeated request in, one key means one dispatch and one charge."""

from datetime import UTC, datetime, timedelta

import psycopg
from fakes.books import Books
from fakes.midnight import TEST_CLOCK
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine

from quillgate_core.counting import Usage
from quillgate_core.errors import AlreadyCompleted, DuplicateInProgress, IdempotencyMismatch
from quillgate_core.reservation import Idempotency, Release, Reservation, Reserve, Settle
from quillgate_core.storage.ledger import Ledger, connect_ledger

HASHES = (b"a" * 32, b"b" * 32)
ACTIONS = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.sampled_from(["reserve", "reserve", "settle", "release", "wait"]),
        st.sampled_from(["k1", "k2"]),
        st.sampled_from(HASHES),
    ),
    min_size=1,
    max_size=25,
)


class Trial:
    """A workspace, the model of its keys, and two ledgers."""

    def __init__(self, books: Books, connections: list[psycopg.Connection], name: str) -> None:
        self.books = books
        self.connections = connections
        self.name = name
        self.now = datetime(2030, 5, 1, 23, 59, 50, tzinfo=UTC)
        self.ledgers = [Ledger(clock=TEST_CLOCK) for _ in connections]
        self.holder: dict[str, tuple[str, bytes, str]] = {}
        """By key: who has it, what he said, and where he stands."""
        self.made = 0
        books.add_workspace(name)

    def act(self, replica: int, action: str, key: str, said: bytes) -> None:
        """Do one thing through one replica, and hold the answer against the model."""
        if action == "wait":
            self.now += timedelta(seconds=7)
            self.books.run("UPDATE test_clock SET now = :now", now=self.now)
        elif action == "reserve":
            self._reserve(replica, key, said)
        elif key in self.holder and self.holder[key][2] == "open":
            request_id, its_words, _ = self.holder[key]
            ids = {"workspace_id": self.name, "request_id": request_id, "owner": "core"}
            step = (
                Settle(**ids, usage=Usage(1, 0, 1), usage_source="provider") if action == "settle" else Release(**ids)
            )
            self.ledgers[replica].apply(self.connections[replica], [step])
            if action == "settle":
                self.holder[key] = (request_id, its_words, "settled")
            else:
                del self.holder[key]

    def _reserve(self, replica: int, key: str, said: bytes) -> None:
        self.made += 1
        step = Reserve(
            workspace_id=self.name,
            request_id=f"r{self.made}",
            hold_messages=1,
            owner="core",
            idempotency=Idempotency(key, said),
        )
        (outcome,) = self.ledgers[replica].apply(self.connections[replica], [step])
        if key not in self.holder:
            assert isinstance(outcome, Reservation)
            self.holder[key] = (step.request_id, said, "open")
        else:
            _, its_words, state = self.holder[key]
            refusal = DuplicateInProgress if state == "open" else AlreadyCompleted
            assert type(outcome) is (refusal if said == its_words else IdempotencyMismatch)


def test_i10_one_key_is_one_dispatch_and_one_charge(engine: Engine, database_url: str) -> None:
    """Repeats through two replicas, over midnight: the first that was not released has the key for good."""
    books = Books(engine)
    books.run("CREATE TABLE test_clock (now timestamptz)")
    books.run("INSERT INTO test_clock VALUES ('2030-05-01 23:59:50Z')")
    with connect_ledger(database_url) as first, connect_ledger(database_url) as second:

        @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
        @given(actions=ACTIONS)
        def run(actions: list[tuple[int, str, str, bytes]]) -> None:
            books.run("UPDATE test_clock SET now = '2030-05-01 23:59:50Z'")
            trial = Trial(books, [first, second], f"ws{len(books.read('SELECT FROM workspaces'))}")
            for action in actions:
                trial.act(*action)
            query = (
                "SELECT max(n) FROM (SELECT count(*) AS n FROM ledger WHERE workspace_id = :id"
                " AND state <> 'released' GROUP BY idempotency_key) c"
            )
            assert books.read(query, id=trial.name)[0][0] in (None, 1)

        run()
    books.check()
