"""What requests count, whichever way they end, seen in `daily_message_count` of the real database."""

import asyncio

import aiohttp
import pytest
from fakes.scripted_upstream import Step, chat_answer, chat_chunk, chat_stream, json_answer, sse_answer
from service import BIG_MODEL, MODEL, RunningService, Tenant

PATH = "/chat/completions"


def body(*, stream: bool = False, model: str = MODEL, **members: object) -> dict[str, object]:
    """A small chat request."""
    return {"model": model, "messages": [{"role": "user", "content": "Hello!"}], "stream": stream, **members}


async def ask(service: RunningService, tenant: Tenant, payload: dict[str, object]) -> tuple[int, bytes]:
    """Posts a chat request and reads the whole answer."""
    headers = {"authorization": f"Bearer {tenant.key}"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(service.base_url + PATH, json=payload, headers=headers) as response,
    ):
        return response.status, await response.read()


@pytest.mark.parametrize("stream", [False, True])
async def test_prompt_10_completion_5_counts_1_10_5(service: RunningService, stream: bool) -> None:
    """Prompt 10 and completion 5 show as count 1, input 10, output 5, streamed or not."""
    tenant = await service.tenant()
    assert (await ask(service, tenant, body(stream=stream)))[0] == 200
    assert await service.daily(tenant) == (1, 0, 10, 0, 5, 1)


async def test_cached_tokens_count_half(service: RunningService) -> None:
    """20,000 prompt tokens of which 8,002 are cached, and 1 completion token, count 15,999 + 1: one message."""
    tenant = await service.tenant()
    service.upstream.script(chat_answer(prompt_tokens=20_000, cached_tokens=8_002, completion_tokens=1))
    await ask(service, tenant, body(model=BIG_MODEL))
    assert await service.daily(tenant) == (1, 0, 20_000, 8_002, 1, 1)
    service.upstream.script(chat_answer(prompt_tokens=20_000, cached_tokens=8_000, completion_tokens=1))
    await ask(service, tenant, body(model=BIG_MODEL))
    assert await service.daily(tenant) == (3, 0, 40_000, 16_002, 2, 2)


async def test_settled_before_the_end_of_a_stream_is_seen(service: RunningService) -> None:
    """Whoever has read [DONE] finds the request settled, without waiting."""
    tenant = await service.tenant()
    _, text = await ask(service, tenant, body(stream=True))
    assert text.endswith(b"data: [DONE]\n\n")
    assert await service.daily(tenant) == (1, 0, 10, 0, 5, 1)


async def test_missing_usage_is_estimated(service: RunningService) -> None:
    """A provider that reports no usage is metered by an estimate, marked as such."""
    tenant = await service.tenant()
    service.upstream.script(chat_stream(["Hello ", "there"], include_usage=False))
    assert (await ask(service, tenant, body(stream=True)))[0] == 200
    row = await service.daily(tenant)
    assert row is not None and row[0] == 1 and row[2] > 0 and row[4] > 0
    assert await service.rows(
        "SELECT usage_source, state FROM ledger WHERE workspace_id = %s", tenant.workspace_id
    ) == [("estimate", "settled")]


@pytest.mark.parametrize("stream", [False, True])
async def test_failure_before_output_is_free(service: RunningService, stream: bool) -> None:
    """A provider that fails before any output costs nothing."""
    tenant = await service.tenant()
    service.upstream.script(json_answer(500, {"error": {"message": "boom"}}))
    status, _ = await ask(service, tenant, body(stream=stream))
    assert status == 502
    assert await service.daily(tenant) == (0, 0, 0, 0, 0, 0)


async def test_failure_after_output_is_charged(service: RunningService) -> None:
    """A provider that fails after output is charged what was observed, at least 1, and no [DONE] is sent."""
    tenant = await service.tenant()
    service.upstream.script(sse_answer(chat_chunk({"role": "assistant", "content": "Hel"}), Step.RESET))
    status, text = await ask(service, tenant, body(stream=True))
    assert status == 200
    assert b'data: {"error":' in text and b"[DONE]" not in text
    row = await service.daily(tenant)
    assert row is not None and (row[0], row[1], row[5]) == (1, 0, 1)


@pytest.mark.parametrize("model", [MODEL, "quillgate/echo"])
async def test_37_of_50_concurrent_requests(service: RunningService, model: str) -> None:
    """With 37 messages left, exactly 37 of 50 concurrent requests are answered and 13 are told insufficient_quota."""
    tenant = await service.tenant(allowance=37)
    answers = await asyncio.gather(*(ask(service, tenant, body(model=model, stream=bool(i % 2))) for i in range(50)))
    assert sorted(status for status, _ in answers) == [200] * 37 + [429] * 13
    assert all(b'"insufficient_quota"' in text for status, text in answers if status == 429)
    row = await service.daily(tenant)
    assert row is not None and (row[0], row[1], row[5]) == (37, 0, 37)


async def test_last_message_is_usable(service: RunningService) -> None:
    """With one message left, a model with a larger limit is asked for fewer tokens, and the next request is refused."""
    tenant = await service.tenant(allowance=1)
    assert (await ask(service, tenant, body(model=BIG_MODEL)))[0] == 200
    assert 15_000 < service.upstream.requests[-1].json["max_tokens"] < 16_000
    assert (await ask(service, tenant, body(model=BIG_MODEL)))[0] == 429


async def test_revoked_key_is_refused_at_the_next_request(service: RunningService) -> None:
    """A key that worked a moment ago and is in the cache is refused right after it was revoked."""
    tenant = await service.tenant()
    assert (await ask(service, tenant, body()))[0] == 200
    await service.rows(
        "UPDATE keys SET revoke_time = clock_timestamp(), revision = revision + 1 WHERE key_id = %s RETURNING 1",
        tenant.key_id,
    )
    status, text = await ask(service, tenant, body())
    assert (status, b'"invalid_api_key"' in text) == (401, True)
    assert await service.daily(tenant) == (1, 0, 10, 0, 5, 1)


async def test_changed_key_is_read_afresh(service: RunningService) -> None:
    """A model taken from a cached key is refused at the next request, also when another replica took it."""
    tenant = await service.tenant()
    assert (await ask(service, tenant, body()))[0] == 200
    await service.rows(
        "UPDATE keys SET allowed_models = '{quillgate/echo}', revision = revision + 1 WHERE key_id = %s RETURNING 1",
        tenant.key_id,
    )
    assert (await ask(service, tenant, body()))[0] == 403
    assert (await ask(service, tenant, body(model="quillgate/echo", stream=True)))[0] == 200
