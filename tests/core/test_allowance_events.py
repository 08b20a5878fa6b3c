"""Telling of allowances that were reached: what is noted of each attempt, the pauses, and that nothing stops it."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from fakes.fake_events import FakeEventStore, FakeSender, an_event

from quillgate_core.allowance_event import Attempt
from quillgate_core.allowance_events import (
    BATCH,
    FIRST_PAUSE_S,
    MAX_BATCHES,
    MAX_PAUSE_S,
    MAX_SENT_AT_ONCE,
    AllowanceEvents,
)
from quillgate_core.errors import Overloaded


async def _call(call: Callable[[], Any]) -> Any:
    return call()


class EventSite:
    """The chore with a store and a sender that do as told, and pauses without jitter."""

    def __init__(self) -> None:
        self.store = FakeEventStore()
        self.sender = FakeSender()
        self.now = 1_000.0
        self.events = AllowanceEvents(
            self.store, self.sender, blocking=_call, jitter=lambda: 1.0, clock=lambda: self.now
        )

    def pass_time(self, seconds: float) -> None:
        """Move the clock on."""
        self.now += seconds

    async def failed_pause_s(self, attempts: int, attempt: Attempt) -> float:
        """The pause after a failure that has some before it."""
        self.store.due = [an_event(attempts=attempts)]
        self.sender.attempt = attempt
        await self.events.publish()
        return self.store.pauses.pop()


@pytest.fixture
def site() -> EventSite:
    """A site of this test alone."""
    return EventSite()


async def test_what_is_due_is_sent_and_noted(site: EventSite) -> None:
    """Each round looks for new events first; a delivered one is noted as such."""
    site.store.due = [an_event("a"), an_event("b")]
    assert await site.events.publish() == 2
    assert sorted(site.store.noted) == [("delivered", "a"), ("delivered", "b")]
    assert await site.events.publish() == 0
    assert (site.store.notices, site.sender.sent) == (2, ["a", "b"])


async def test_a_failure_is_put_off_with_growing_pauses(site: EventSite) -> None:
    """5 s, 10 s, 20 s and so on, up to an hour, however often it failed."""
    pauses = [await site.failed_pause_s(number, Attempt(cause="status 500")) for number in (*range(12), 10_000)]
    assert pauses[:4] == [FIRST_PAUSE_S, 10, 20, 40]
    assert pauses[9:] == [2_560, MAX_PAUSE_S, MAX_PAUSE_S, MAX_PAUSE_S]


async def test_pauses_are_not_the_same_for_all() -> None:
    """Each is a little shorter by chance, so that failures at the same moment do not come again at the same moment."""
    store = FakeEventStore(due=[an_event(str(number)) for number in range(BATCH)])
    await AllowanceEvents(store, FakeSender(Attempt()), blocking=_call).publish()
    assert len(set(store.pauses)) > 1
    assert all(0.8 * FIRST_PAUSE_S <= pause_s <= FIRST_PAUSE_S for pause_s in store.pauses)


async def test_a_receiver_that_asks_for_time_gets_it(site: EventSite) -> None:
    """`Retry-After` lengthens a pause, never shortens it, and is believed up to an hour."""
    asked = [await site.failed_pause_s(0, Attempt(retry_after_s=seconds)) for seconds in (1, 100, 10**6)]
    assert asked == [FIRST_PAUSE_S, 100, MAX_PAUSE_S]


async def test_what_the_receiver_wants_no_more_is_given_up(site: EventSite, caplog: pytest.LogCaptureFixture) -> None:
    """A final refusal is not tried again, and the log says so as an error."""
    site.store.due = [an_event("a")]
    site.sender.attempt = Attempt(is_final=True, cause="status 410")
    assert await site.events.publish() == 0
    assert site.store.noted == [("given up", "a")]
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("ERROR", "event a is given up: status 410")
    ]


async def test_what_is_too_old_is_told_to_the_log(site: EventSite, caplog: pytest.LogCaptureFixture) -> None:
    """After a day an event is lost; that is an error, where a failure before is a warning."""
    for is_too_old in (False, True):
        site.store.is_too_old = is_too_old
        site.store.due = [an_event("a")]
        site.sender.attempt = Attempt(cause="status 500")
        await site.events.publish()
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("WARNING", "event a will be sent again: status 500"),
        ("ERROR", "event a is given up after a day: status 500"),
    ]


@pytest.mark.parametrize("failure", [Overloaded("away"), RuntimeError("a bug")])
async def test_an_end_that_cannot_be_noted_harms_no_other(
    site: EventSite, failure: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """The database goes away after the attempt: the event stays claimed and comes again; the round goes on."""
    site.store.due = [an_event("a"), an_event("b")]
    site.store.failure = failure
    assert await site.events.publish() == 0
    assert (site.sender.sent, site.store.noted) == (["a", "b"], [])
    assert len(caplog.records) == 2


async def test_a_sender_that_breaks_harms_no_other(site: EventSite, caplog: pytest.LogCaptureFixture) -> None:
    """A fault of ours in one event leaves it claimed, and the others are delivered."""
    site.store.due = [an_event("a"), an_event("b")]
    site.sender.attempts = [RuntimeError("a bug")]
    assert await site.events.publish() == 1
    assert site.store.noted == [("delivered", "b")]
    assert "event a could not be sent" in caplog.text


async def test_a_round_is_bounded(site: EventSite) -> None:
    """At most 80 events are sent in a round, and 4 at once; the rest has its turn in the next one."""
    site.store.due = [an_event(str(number)) for number in range(BATCH * MAX_BATCHES + 5)]
    assert [await site.events.publish(), await site.events.publish()] == [BATCH * MAX_BATCHES, 5]
    assert site.sender.most_at_once == MAX_SENT_AT_ONCE


async def test_looks_are_a_small_part_of_the_time() -> None:
    """With very many workspaces a look takes long, and the next one comes the later; what is due is sent meanwhile."""
    slow = EventSite()
    slow.store.on_notice = partial(slow.pass_time, 2)
    await slow.events.publish()
    for _ in range(13):
        slow.pass_time(3)
        slow.store.due = [an_event()]
        assert await slow.events.publish() == 1
    assert slow.store.notices == 1
    slow.pass_time(3)
    await slow.events.publish()
    assert slow.store.notices == 2


async def test_a_receiver_that_fails_ends_the_round(site: EventSite) -> None:
    """A dead receiver is not hammered with all that waits, nor does it keep new events from being noticed."""
    site.store.due = [an_event(str(number)) for number in range(3 * BATCH)]
    site.sender.attempts = [Attempt(cause="status 500")]
    assert await site.events.publish() == BATCH - 1
    assert len(site.sender.sent) == BATCH


async def test_cancelling_stops_every_attempt(site: EventSite) -> None:
    """A process that stops leaves nothing running, and notes nothing of what it does not know."""
    site.store.due = [an_event(str(number)) for number in range(BATCH)]
    site.sender.attempt = asyncio.Event()
    task = asyncio.create_task(site.events.publish())
    while site.sender.running < MAX_SENT_AT_ONCE:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0)
    assert (site.sender.running, site.store.noted) == (0, [])
