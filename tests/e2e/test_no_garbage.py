"""Requests that have ended are freed at once: nothing of them is left in circles for the garbage collector to find.

It is run rarely, since each of its searches stops the service; until then, circles cost memory.
"""

import asyncio
import gc
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import CoroutineType, FrameType
from typing import Any

import aiohttp
import pytest
from fakes.scripted_upstream import Step, chat_chunk, json_answer, sse_answer
from service import MODEL, RunningService

REQUESTS = 3

Visit = Callable[[RunningService, str], Awaitable[None]]


@contextmanager
def garbage() -> Iterator["Counter[str]"]:
    """Counts, after the block, what of ours was left in circles by then."""
    found: Counter[str] = Counter()
    gc.collect()
    gc.disable()
    try:
        yield found
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        found.update(name for name in map(_name, gc.garbage) if name.startswith("quillgate"))
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def _name(thing: object) -> str:
    """Names what code or class a thing is of, with its module."""
    if isinstance(thing, FrameType):
        return f"{thing.f_globals.get('__name__')}.{thing.f_code.co_name}"
    if isinstance(thing, CoroutineType) and thing.cr_frame is not None:
        return _name(thing.cr_frame)
    return f"{type(thing).__module__}.{type(thing).__qualname__}"


async def whole(service: RunningService, key: str) -> None:
    """Is answered in one piece."""
    assert await _ask(service, key) == 200


async def streamed(service: RunningService, key: str) -> None:
    """Is answered in pieces."""
    assert await _ask(service, key, stream=True) == 200


async def bad(service: RunningService, key: str) -> None:
    """Is refused since it makes no sense."""
    assert await _ask(service, key, messages=[]) == 400


async def exhausted(service: RunningService, key: str) -> None:
    """Is refused by the ledger."""
    assert await _ask(service, key, max_tokens=8000, messages=[{"role": "user", "content": "word " * 9000}]) == 429


async def failed(service: RunningService, key: str) -> None:
    """Is refused by the provider."""
    service.upstream.script(json_answer(400, {"error": {"message": "no", "type": "invalid_request_error"}}))
    assert await _ask(service, key) == 400


async def cut_whole(service: RunningService, key: str) -> None:
    """Has its answer cut by the provider."""
    service.upstream.script(sse_answer(Step.RESET), sse_answer(Step.RESET), sse_answer(Step.RESET))
    assert await _ask(service, key) >= 500


async def cut_stream(service: RunningService, key: str) -> None:
    """Has its stream cut by the provider in the middle."""
    service.upstream.script(sse_answer(chat_chunk({"role": "assistant", "content": "word"}), Step.RESET))
    assert await _ask(service, key, stream=True) == 200


async def left_whole(service: RunningService, key: str) -> None:
    """Is left by its client while the provider works."""
    await _leave(service, key, stream=False)


async def left_stream(service: RunningService, key: str) -> None:
    """Is left by its client while the provider works, before the first chunk."""
    await _leave(service, key, stream=True)


async def left_with_another(service: RunningService, key: str) -> None:
    """Is left by its client, which has sent another request behind it."""
    await _leave(service, key, stream=False, behind=b"POST /v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")


async def _ask(service: RunningService, key: str, **members: Any) -> int:
    question = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], **members}
    async with (
        aiohttp.ClientSession(service.base_url + "/", headers={"Authorization": f"Bearer {key}"}) as session,
        session.post("chat/completions", json=question) as answer,
    ):
        await answer.read()
        return answer.status


async def _leave(service: RunningService, key: str, *, stream: bool, behind: bytes = b"") -> None:
    service.upstream.script(sse_answer(Step.HANG))
    _, writer = await service.send_chat(key, stream=stream)
    asked = await service.upstream.wait_for_requests(len(service.upstream.requests) + 1)
    writer.write(behind)
    await asyncio.sleep(0.05)  # until the service has read what is behind
    writer.transport.abort()
    await asyncio.wait_for(asked.disconnected.wait(), 5)


VISITS: list[Visit] = [
    whole,
    streamed,
    bad,
    exhausted,
    failed,
    cut_whole,
    cut_stream,
    left_whole,
    left_stream,
    left_with_another,
]


@pytest.mark.parametrize("visit", VISITS)
async def test_a_request_leaves_no_garbage(running_service: RunningService, visit: Visit) -> None:
    """However it ends, nothing of it is left when it has ended and its connection is closed."""
    tenant = await running_service.tenant(allowance=1 if visit is exhausted else None)
    await visit(running_service, tenant.key)
    await _rest(running_service)
    with garbage() as found:
        for _ in range(REQUESTS):
            await visit(running_service, tenant.key)
        await _rest(running_service)
    assert not found


async def _rest(service: RunningService) -> None:
    """Waits until nothing is held, and what follows has been done too."""
    async with asyncio.timeout(5):
        while await service.rows("SELECT 1 FROM ledger WHERE state = 'open'"):
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
