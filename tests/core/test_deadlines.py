"""Deadlines: what takes longer than its time is ended, what does not is left alone, whoever else cancels."""

import asyncio

import pytest

from quillgate_core.deadlines import Deadlines

SHORT_S = 0.02
LONG_S = 60.0


async def test_a_block_in_time_is_left_alone() -> None:
    """It returns, and its task is not cancelled later either."""
    deadlines = Deadlines(SHORT_S)
    with deadlines.limit():
        await asyncio.sleep(0)
    await asyncio.sleep(SHORT_S * 3)


async def test_a_block_that_waits_too_long_raises() -> None:
    """And what is awaited after it is not cancelled."""
    deadlines = Deadlines(SHORT_S)
    with pytest.raises(TimeoutError), deadlines.limit():
        await asyncio.sleep(LONG_S)
    await asyncio.sleep(0)
    task = asyncio.current_task()
    assert task is not None and task.cancelling() == 0


async def test_each_expires_by_its_own_time() -> None:
    """One that began later outlives the one before it, and the timer goes on for it."""
    deadlines, ended = Deadlines(SHORT_S * 2), []
    deadlines.call(lambda: ended.append("first"))
    forgotten = deadlines.call(lambda: ended.append("forgotten"))
    await asyncio.sleep(SHORT_S)
    deadlines.call(lambda: ended.append("second"))
    forgotten.cancel()
    while not ended:
        await asyncio.sleep(0)
    assert ended == ["first"]
    while len(ended) < 2:
        await asyncio.sleep(0)
    assert ended == ["first", "second"]


async def test_a_cancellation_by_somebody_else_stands() -> None:
    """Also when the time is over at the same moment."""
    deadlines = Deadlines(SHORT_S)

    async def wait() -> None:
        with deadlines.limit():
            await asyncio.sleep(LONG_S)

    for both in (False, True):
        task = asyncio.create_task(wait())
        await asyncio.sleep(0)
        if both:
            for entry in tuple(deadlines._times):
                entry.expire()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_blocks_within_each_other_end_for_themselves() -> None:
    """The inner one's end is not the outer one's."""
    inner, outer = Deadlines(SHORT_S), Deadlines(LONG_S)
    with outer.limit():
        with pytest.raises(TimeoutError), inner.limit():
            await asyncio.sleep(LONG_S)
        await asyncio.sleep(0)


async def test_nothing_is_kept_of_what_has_ended() -> None:
    """Or a busy hour would stay in memory."""
    deadlines = Deadlines(LONG_S)
    for _ in range(1_000):
        with deadlines.limit():
            pass
        deadlines.call(lambda: None).cancel()
    assert not deadlines._times
