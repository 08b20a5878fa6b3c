"""Days of the ledger while requests go on: one moment is compared, and dropping an old day disturbs no new one."""

import threading
from collections.abc import Iterator
from datetime import timedelta
from itertools import count

import pytest
from fakes.hand_made_ledger import HandMadeLedger
from sqlalchemy import Engine

from quillgate_core.counting import Usage
from quillgate_core.reservation import Outcome, Release, Reserve, Settle, Step
from quillgate_core.storage.adjustment_store import SqlAdjustmentStore
from quillgate_core.storage.ledger import Ledger, connect_ledger
from quillgate_core.storage.ledger_day_store import SqlLedgerDayStore

ROUNDS = 30


class Traffic:
    """A core's writer that reserves, settles, releases and corrects, until it is stopped."""

    def __init__(self, engine: Engine, database_url: str) -> None:
        self.made = HandMadeLedger(engine)
        self.made.books.add_key("key")
        self.corrections = SqlAdjustmentStore(engine)
        self.failures: list[object] = []
        self.batches = 0
        self._url = database_url
        self._is_stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        """End it and wait for its last batch."""
        self._is_stopped.set()
        self._thread.join(30)
        assert not self._thread.is_alive()

    def wait(self) -> None:
        """Let one more batch pass at least."""
        seen = self.batches
        while self.batches == seen and self._thread.is_alive():
            self._is_stopped.wait(0.005)

    def _run(self) -> None:
        try:
            self._work()
        except Exception as error:
            self.failures.append(error)

    def _work(self) -> None:
        ledger = Ledger()
        with connect_ledger(self._url) as connection:
            for number in count():
                if self._is_stopped.is_set():
                    return
                names = [f"r{number}-{place}" for place in range(4)]
                reserves = [
                    Reserve(
                        workspace_id="ws", request_id=name, hold_messages=2, key_id="key", key_revision=1, owner="core"
                    )
                    for name in names
                ]
                self._check(ledger.apply(connection, reserves))
                usage = Usage(40_000, 0, 5)
                ends: list[Step] = [
                    Settle(workspace_id="ws", request_id=name, owner="core", usage=usage, usage_source="provider")
                    for name in names[:2]
                ]
                ends.append(Release(workspace_id="ws", request_id=names[2], owner="core"))
                self._check(ledger.apply(connection, ends))
                self.corrections.adjust("ws", names[0], source="openrouter", usage=Usage(1, 0, 1), cost_picodollars=5)
                self.batches += 1

    def _check(self, outcomes: list[Outcome]) -> None:
        self.failures.extend(outcome for outcome in outcomes if isinstance(outcome, Exception))


@pytest.fixture
def traffic(engine: Engine, database_url: str) -> Iterator[Traffic]:
    """Traffic that none of what a test does may make fail; its books are checked at the end."""
    traffic = Traffic(engine, database_url)
    traffic.wait()
    yield traffic
    traffic.stop()
    assert traffic.failures == []
    traffic.made.books.check()


def test_sums_agree_at_every_moment(engine: Engine, traffic: Traffic) -> None:
    """A day that is written to all the time is compared as it was at one moment, again and again."""
    store = SqlLedgerDayStore(engine)
    seen = set()
    for _ in range(ROUNDS):
        checked = store.check(store.today(), "")
        assert checked.discrepancies == ()
        seen.add(checked.row_count)
        traffic.wait()
    assert len(seen) > 1


def test_dropping_an_old_day_disturbs_nobody(engine: Engine, traffic: Traffic) -> None:
    """Requests of today are served while old days go, one after the other, with nothing refused."""
    store = SqlLedgerDayStore(engine)
    for number in range(9, 14):
        day = store.today() - timedelta(days=number)
        traffic.made.add("old", day=day)
        traffic.wait()
        assert store.drop(day, 1) == 1
        traffic.wait()
    assert [day.day for day in store.days()] == [store.today()]
