"""Clients that go away: the provider's connection is closed, the request is settled, nothing stays open."""

import asyncio

import pytest
from fakes.scripted_upstream import Step, chat_chunk, sse_answer
from service import RunningService

CHUNKS = 6


@pytest.mark.parametrize("chunks_read", range(CHUNKS + 1))
async def test_hang_up_at_every_chunk(service: RunningService, chunks_read: int) -> None:
    """After any number of chunks, hanging up closes the provider's socket within 1 s and settles at least 1 message."""
    tenant = await service.tenant()
    events = [chat_chunk({"role": "assistant", "content": f"word{i} "}) for i in range(chunks_read)]
    service.upstream.script(sse_answer(*events, Step.HANG))
    reader, writer = await service.send_chat(tenant.key, stream=True)
    asked = await service.upstream.wait_for_requests(1)
    for index in range(chunks_read):
        async with asyncio.timeout(5):
            while f"word{index} ".encode() not in await reader.readline():
                pass
    writer.transport.abort()
    async with asyncio.timeout(1.0):
        await asked.disconnected.wait()
    row = await service.settled(tenant)
    assert (row[0], row[1], row[5]) == (1, 0, 1)
    assert await service.rows(
        "SELECT state, outcome, usage_source FROM ledger WHERE workspace_id = %s", tenant.workspace_id
    ) == [("settled", "caller_gone", "estimate")]


async def test_hang_up_on_a_unary_answer(service: RunningService) -> None:
    """A client that leaves before its one answer is charged what was observed, and the provider is told."""
    tenant = await service.tenant()
    service.upstream.script(sse_answer(Step.HANG))
    _, writer = await service.send_chat(tenant.key, stream=False)
    asked = await service.upstream.wait_for_requests(1)
    writer.transport.abort()
    async with asyncio.timeout(1.0):
        await asked.disconnected.wait()
    row = await service.settled(tenant)
    assert (row[0], row[1], row[5]) == (1, 0, 1)


async def test_many_hang_ups_leave_nothing_open(service: RunningService) -> None:
    """Forty clients that leave at random moments leave no reservation open and no message held."""
    tenant = await service.tenant(allowance=1000)

    async def visit(number: int) -> None:
        _, writer = await service.send_chat(tenant.key, stream=bool(number % 2))
        await asyncio.sleep((number % 10) * 0.003)
        writer.transport.abort()

    await asyncio.gather(*(visit(number) for number in range(40)))
    await asyncio.sleep(0.5)  # requests that were sent before the hang-up may still be on their way
    async with asyncio.timeout(5):
        while await service.rows("SELECT 1 FROM ledger WHERE state = 'open'"):
            await asyncio.sleep(0.01)
    counted = await service.rows("SELECT coalesce(sum(counted_messages), 0) FROM ledger")
    row = await service.daily(tenant) or (0, 0)
    assert (row[0], row[1]) == (counted[0][0], 0)
