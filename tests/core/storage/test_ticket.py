"""What happens where an answer and a cancellation meet: no database, the writer's part is played by the test."""

import asyncio
import time
from datetime import date

import pytest

from quillgate_core.counting import Usage
from quillgate_core.deadlines import Deadlines
from quillgate_core.errors import AllowanceExhausted, Overloaded
from quillgate_core.reservation import Outcome, Release, Reservation, Reserve, Settle
from quillgate_core.storage.ticket import LATE_S, StepTicket, deliver

OWNED = Reserve(workspace_id="ws", request_id="r", hold_messages=1, owner="a")
FOREIGN = Reserve(workspace_id="ws", request_id="r", hold_messages=1)
SETTLE = Settle(workspace_id="ws", request_id="r", usage=Usage(), usage_source="provider", owner="a")
UNDO = Release(workspace_id="ws", request_id="r", owner="a", nonce=OWNED.nonce, outcome="abandoned")


def reservation(*, replayed: bool = False) -> Reservation:
    """The answer to a reserve that was granted."""
    return Reservation("ws", "r", date(2030, 1, 1), 1, "open", None, replayed)


async def test_an_answer_reaches_who_waits() -> None:
    """The outcome is handed over and nothing is undone."""
    posted: list[Release] = []
    ticket = StepTicket.of_running_loop(OWNED, posted.append)
    task = asyncio.create_task(ticket.outcome())
    deliver([(ticket, reservation())])
    assert await task == reservation()
    assert posted == []


@pytest.mark.parametrize("is_answered", [True, False])
async def test_a_process_that_was_stopped_still_hears_the_answer(is_answered: bool) -> None:
    """Time in which the process could not listen is not the database's; but it is given only a little more."""
    ticket = StepTicket.of_running_loop(OWNED, [].append)
    task = asyncio.create_task(ticket.outcome())
    await asyncio.sleep(0)
    ticket.expire_with(Deadlines(0.01))
    time.sleep(LATE_S + 0.1)
    for _ in range(3):
        await asyncio.sleep(0)
    assert not task.done()
    if is_answered:
        deliver([(ticket, reservation())])
    assert isinstance(await task, Reservation if is_answered else Overloaded)


async def test_a_cancellation_that_crosses_the_answer_undoes_it() -> None:
    """A task cancelled after the answer was delivered, but before it ran again, does not keep the hold."""
    posted: list[Release] = []
    ticket = StepTicket.of_running_loop(OWNED, posted.append)
    task = asyncio.create_task(ticket.outcome())
    await asyncio.sleep(0)
    deliver([(ticket, reservation())])
    asyncio.get_running_loop().call_soon(task.cancel)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert posted == [UNDO]


async def test_an_answer_after_the_cancellation_is_undone() -> None:
    """A reservation that comes when nobody waits any more is released, once."""
    posted: list[Release] = []
    ticket = StepTicket.of_running_loop(OWNED, posted.append)
    task = asyncio.create_task(ticket.outcome())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    deliver([(ticket, reservation())])
    await asyncio.sleep(0)
    assert posted == [UNDO]


@pytest.mark.parametrize(
    ("step", "outcome"),
    [
        (OWNED, reservation(replayed=True)),
        (OWNED, AllowanceExhausted("")),
        (FOREIGN, reservation()),
        (SETTLE, AllowanceExhausted("")),
    ],
)
async def test_what_is_not_ours_is_not_undone(step: Reserve | Settle, outcome: Outcome) -> None:
    """Neither a refusal, nor another request's row, nor a row without owner is released by a cancellation."""
    posted: list[Release] = []
    ticket = StepTicket.of_running_loop(step, posted.append)
    task = asyncio.create_task(ticket.outcome())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    deliver([(ticket, outcome)])
    await asyncio.sleep(0)
    assert posted == []


@pytest.mark.parametrize(
    ("step", "is_attempted", "expected"),
    [(OWNED, False, None), (OWNED, True, UNDO), (FOREIGN, False, None), (FOREIGN, True, None), (SETTLE, True, SETTLE)],
)
async def test_what_is_sent_for_an_abandoned_step(
    step: Reserve | Settle, is_attempted: bool, expected: Release | Settle | None
) -> None:
    """An abandoned reserve is dropped, or replaced by its release if it may have landed; a settle is still sent."""
    posted: list[Release] = []
    ticket = StepTicket.of_running_loop(step, posted.append)
    task = asyncio.create_task(ticket.outcome())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    ticket.is_attempted = is_attempted
    assert (ticket.step if ticket.is_wanted() else None) == expected


async def test_answers_of_a_batch_arrive_together() -> None:
    """All waiters of a loop are served by one wake-up, in the order of the batch."""
    served: list[str] = []

    async def wait(ticket: StepTicket) -> None:
        await ticket.outcome()
        served.append(ticket.step.request_id)

    steps = [Reserve(workspace_id="ws", request_id=f"r{number}", hold_messages=1) for number in range(5)]
    tickets = [StepTicket.of_running_loop(step, lambda release: None) for step in steps]
    tasks = [asyncio.create_task(wait(ticket)) for ticket in tickets]
    deliver([(ticket, reservation()) for ticket in tickets])
    await asyncio.gather(*tasks)
    assert served == [step.request_id for step in steps]
