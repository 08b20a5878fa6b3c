"""The comparison behind `make chaos` finds every kind of difference, and nothing in books that agree."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import date

import pytest
from faults.chaos.books import Adjustment, Books, Day, Row
from faults.chaos.record import Attempt, Dispatch, Record, Tokens
from faults.chaos.verdict import Verdict, judge

DAY = date(2026, 1, 2)
USED = Tokens(100, 10, 20_000)


@dataclass
class FakeRun:
    """The books and the record of two whole requests: a stream with an idempotency key, and one whose head was lost."""

    record: Record = field(default_factory=Record)
    books: Books = field(default_factory=lambda: Books(allowances={"ws": 4}))

    def __post_init__(self) -> None:
        for number, start_time in enumerate((10.0, 20.0)):
            token = f"t{number}"
            attempt = Attempt(token, "ws", "key", "stream", number == 0, start_time, start_time + 5)
            if number == 0:
                attempt.status, attempt.request_id, attempt.is_done, attempt.shown = 200, "req_0", True, USED
            self.record.attempts.append(attempt)
            self.record.dispatches[token].append(Dispatch(token, start_time + 1, "whole", USED, USED))
            self.books.rows.append(row(number, start_time + 0.5, key=token if number == 0 else None))
        self.books.days += [Day(account, DAY, 4, 0, Tokens(200, 20, 40_000), 2) for account in ("ws", "key")]

    def change(self, **members: object) -> None:
        """Tamper with the row of the first request."""
        self.books.rows[0] = replace(self.books.rows[0], **members)  # type: ignore[arg-type]

    def judge(self) -> Verdict:
        """Compare."""
        return judge(self.record, self.books, {})


def row(number: int, reserve_time: float, *, key: str | None = None) -> Row:
    """The settled row of one of the requests."""
    ids = ("ws", f"req_{number}", DAY, "settled", "key", key)
    return Row(*ids, "complete", "provider", 4, 2, USED, reserve_time, reserve_time + 4)


def found_in(tamper: Callable[[FakeRun], None]) -> tuple[int, int, int]:
    """Lost, doubled and over of the run after it was tampered with."""
    run = FakeRun()
    tamper(run)
    verdict = run.judge()
    return len(verdict.lost), len(verdict.doubled), verdict.over


def test_books_that_agree_are_clean() -> None:
    """Two whole requests with their rows and their day are no violation, one found by its id, one by key and time."""
    verdict = FakeRun().judge()
    assert str(verdict) == "dispatched 2 lost 0 doubled 0 over 0 recovered 0"
    assert verdict.is_clean


def _lose_row(run: FakeRun) -> None:
    del run.books.rows[1]


def _cheapen_row(run: FakeRun) -> None:
    run.change(tokens=Tokens(100, 10, 5))


def _miscount(run: FakeRun) -> None:
    run.change(counted_messages=1)


def _release(run: FakeRun) -> None:
    run.change(state="released", counted_messages=0, tokens=Tokens())


def _recover(run: FakeRun) -> None:
    run.change(state="recovered")


def _leave_open(run: FakeRun) -> None:
    run.record.attempts[0].is_done = False
    run.change(state="open", counted_messages=0, tokens=Tokens(), settle_time=None)


def _reserve_late(run: FakeRun) -> None:
    run.change(reserve_time=12.0)


def _shrink_key(run: FakeRun) -> None:
    run.books.days[1] = replace(run.books.days[1], held_messages=-1)


def _shrink_day(run: FakeRun) -> None:
    run.books.days[0] = replace(run.books.days[0], message_count=3)


@pytest.mark.parametrize(
    ("tamper", "about"),
    [
        (_lose_row, "without a reservation"),
        (_cheapen_row, "not what the provider reported"),
        (_cheapen_row, "the caller was shown"),
        (_miscount, "count 2 messages, not 1"),
        (_release, "nothing was charged"),
        (_recover, "the row is recovered"),
        (_leave_open, "never ended"),
        (_reserve_late, "without a reservation"),
        (_shrink_day, "the day is Day(account='ws'"),
        (_shrink_key, "the day is Day(account='key'"),
    ],
)
def test_what_is_lost_is_found(tamper: Callable[[FakeRun], None], about: str) -> None:
    """A row that is missing, cheaper, open or late, and a day that lacks something, are each told as lost."""
    run = FakeRun()
    tamper(run)
    verdict = run.judge()
    assert not verdict.is_clean
    assert any(about in story for story in verdict.lost)


def _charge_again(run: FakeRun) -> None:
    run.books.rows.append(replace(row(2, 11.0, key="t0"), request_id="req_9"))
    run.books.days = [Day(day.account, DAY, 6, 0, Tokens(300, 30, 60_000), 3) for day in run.books.days]
    run.books.allowances.clear()


def _charge_nobody(run: FakeRun) -> None:
    _charge_again(run)
    run.books.rows[-1] = replace(run.books.rows[-1], idempotency_key=None, reserve_time=50.0)


def _answer_again(run: FakeRun) -> None:
    run.record.dispatches["t0"].append(Dispatch("t0", 11.5, "whole", None, USED))


def _repeat_id(run: FakeRun) -> None:
    run.books.rows.append(replace(row(0, 11.0), workspace_id="ws2", state="released", counted_messages=0))
    run.books.rows[-1] = replace(run.books.rows[-1], tokens=Tokens())


def _count_again(run: FakeRun) -> None:
    run.books.days[0] = replace(run.books.days[0], request_count=3)


@pytest.mark.parametrize("tamper", [_charge_again, _charge_nobody, _answer_again, _repeat_id, _count_again])
def test_what_is_doubled_is_found(tamper: Callable[[FakeRun], None]) -> None:
    """A second charge or answer, a charge of nobody, an id twice, and a day that counts too much are each told once."""
    assert found_in(tamper) == (0, 1, 0)


def _exhaust(run: FakeRun) -> None:
    run.books.allowances["ws"] = 3


def _exhaust_key(run: FakeRun) -> None:
    run.books.allowances["key"] = 3


def _bill_more(run: FakeRun) -> None:
    run.record.dispatches["t1"][0].billed = Tokens(100, 0, 35_000)


@pytest.mark.parametrize("tamper", [_exhaust, _exhaust_key, _bill_more])
def test_what_is_over_is_found(tamper: Callable[[FakeRun], None]) -> None:
    """A day beyond its allowance, in the books or in what the provider truly did, is told in messages."""
    assert found_in(tamper) == (0, 0, 1)


def test_what_was_over_for_a_moment_is_found() -> None:
    """A day that was beyond its allowance while nobody but the watcher looked is told as well."""
    run = FakeRun()
    assert judge(run.record, run.books, {("ws", DAY): 2}).over == 2


def test_a_correction_is_part_of_a_charge() -> None:
    """A recovered row and its adjustment together are what the caller was shown, and what the day counts."""
    run = FakeRun()
    run.change(tokens=Tokens(), state="recovered", outcome="recovered", counted_messages=4)
    run.books.adjustments.append(Adjustment("ws", "req_0", DAY, "key", -2, USED))
    assert run.judge().is_clean
