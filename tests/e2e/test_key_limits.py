"""Limits of a key, as its client meets them: what `/key` tells, what answers' heads say, and how it is refused."""

from typing import Any

import openai
import pytest
from aiohttp import ClientSession
from google.protobuf.field_mask_pb2 import FieldMask
from service import MODEL, RunningService, Tenant

from quillgate.v1 import key_service_pb2_grpc, workspace_service_pb2_grpc
from quillgate.v1.key_service_pb2 import KeyLimits, UpdateKeyRequest
from quillgate.v1.workspace_service_pb2 import UpdateWorkspaceRequest

Answer = tuple[int, dict[str, str], Any]


async def _get(service: RunningService, tenant: Tenant, path: str) -> Any:
    """The answer of a GET that succeeds."""
    headers = {"authorization": f"Bearer {tenant.key}"}
    async with ClientSession(headers=headers) as http, http.get(service.base_url + path) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.json()


async def _chat(service: RunningService, tenant: Tenant, *, stream: bool = False) -> Answer:
    """Status, headers in lower case, and the answer of a small chat request."""
    headers = {"authorization": f"Bearer {tenant.key}"}
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "stream": stream}
    async with (
        ClientSession(headers=headers) as http,
        http.post(service.base_url + "/chat/completions", json=body) as answer,
    ):
        read = await (answer.text() if stream and answer.status == 200 else answer.json())
        return answer.status, {name.lower(): value for name, value in answer.headers.items()}, read


async def _set_limits(service: RunningService, tenant: Tenant, *paths: str, **limits: int) -> None:
    keys: Any = key_service_pb2_grpc.KeyServiceStub(service.core.channel)
    request = UpdateKeyRequest(key_id=tenant.key_id, limits=KeyLimits(**limits), update_mask=FieldMask(paths=paths))
    await keys.UpdateKey(request, metadata=service.metadata())


async def test_a_key_watches_itself(service: RunningService) -> None:
    """Its limits and what is left are told before and after a request; prompt 10 and completion 5 show as 1, 10, 5."""
    limits = KeyLimits(daily_messages=9, monthly_messages=20, requests_per_minute=60, concurrent_requests=2)
    tenant = await service.tenant(allowance=100, limits=limits, scopes=["inference"])
    before = (await _get(service, tenant, "/key"))["data"]
    assert (before["limit"], before["limit_remaining"], before["limit_reset"], before["usage"]) == (9, 9, "daily", 0)
    assert (await _chat(service, tenant))[0] == 200
    after = (await _get(service, tenant, "/key"))["data"]
    assert {state["limit"]: (state["value"], state["remaining"]) for state in after["limits"]} == {
        "daily_message_allowance": (100, 99),
        "key_daily_messages": (9, 8),
        "key_monthly_messages": (20, 19),
        "key_requests_per_minute": (60, 59),
        "key_concurrent_requests": (2, 2),
    }
    assert (after["limit_remaining"], after["usage_daily"], after["usage_monthly"]) == (8, 1, 1)
    assert after["rate_limit"] == {"requests": 60, "interval": "60s"}
    counted = ("message_count", "held_messages", "input_tokens", "output_tokens", "request_count")
    assert [after["today"][name] for name in counted] == [1, 0, 10, 5, 1]
    assert after["today"] == after["month"]


async def test_usage_is_what_the_database_counts(service: RunningService) -> None:
    """`/usage` shows the workspace's row of the day, and what is left of it."""
    tenant = await service.tenant(allowance=10)
    await _chat(service, tenant)
    usage = await _get(service, tenant, "/usage")
    (row,) = usage["data"]
    columns = ("message_count", "held_messages", "input_tokens", "cached_tokens", "output_tokens", "request_count")
    assert tuple(row[name] for name in columns) == await service.daily(tenant)
    assert (row["workspace_id"], usage["daily_message_allowance"], usage["remaining_messages"]) == (
        tenant.workspace_id,
        10,
        9,
    )
    assert usage["monthly_message_allowance"] is None


@pytest.mark.parametrize("stream", [False, True])
async def test_heads_tell_the_minute(service: RunningService, stream: bool) -> None:
    """Where a key has limits by the minute, an answer's head tells what is left of them, and the messages beside."""
    limits = KeyLimits(daily_messages=30, requests_per_minute=7, tokens_per_minute=50_000)
    tenant = await service.tenant(limits=limits)
    status, headers, _ = await _chat(service, tenant, stream=stream)
    assert status == 200
    assert (headers["x-ratelimit-limit-requests"], headers["x-ratelimit-remaining-requests"]) == ("7", "6")
    assert headers["x-ratelimit-limit-tokens"] == "50000"
    assert 0 < int(headers["x-ratelimit-remaining-tokens"]) < 50_000
    assert headers["x-ratelimit-reset-requests"] in ("1m0s", "1m1s")
    assert 0 < int(headers["x-quillgate-messages-remaining"]) < 30


@pytest.mark.parametrize("stream", [False, True])
async def test_too_many_requests(service: RunningService, stream: bool) -> None:
    """The request beyond the limit hears in OpenAI's words what is limited and when to come back; it costs nothing."""
    tenant = await service.tenant(limits=KeyLimits(requests_per_minute=1))
    assert (await _chat(service, tenant))[0] == 200
    status, headers, body = await _chat(service, tenant, stream=stream)
    error = body["error"]
    assert (status, error["type"], error["code"]) == (429, "requests", "rate_limit_exceeded")
    assert 1 <= int(headers["retry-after"]) <= 60
    assert (headers["x-ratelimit-limit-requests"], headers["x-ratelimit-remaining-requests"]) == ("1", "0")
    assert "x-ratelimit-reset-requests" in headers and "x-should-retry" not in headers
    assert await service.daily(tenant) == (1, 0, 10, 0, 5, 1)
    assert len(service.upstream.requests) == 1


async def test_too_many_tokens(service: RunningService) -> None:
    """A limit of tokens is told as one of tokens."""
    tenant = await service.tenant(limits=KeyLimits(tokens_per_minute=1))
    status, headers, body = await _chat(service, tenant)
    assert (status, body["error"]["type"], body["error"]["code"]) == (429, "tokens", "rate_limit_exceeded")
    assert (headers["x-ratelimit-limit-tokens"], headers["x-ratelimit-remaining-tokens"]) == ("1", "1")


async def test_a_change_holds_from_the_next_request_on(service: RunningService) -> None:
    """A limit that is set, raised or taken away decides over the very next request."""
    tenant = await service.tenant()
    assert (await _chat(service, tenant))[0] == 200
    await _set_limits(service, tenant, "limits.daily_messages", daily_messages=1)
    status, headers, body = await _chat(service, tenant)
    assert (status, body["error"]["code"], headers["x-should-retry"]) == (429, "insufficient_quota", "false")
    await _set_limits(service, tenant, "limits.daily_messages", daily_messages=2)
    assert (await _chat(service, tenant))[0] == 200
    assert (await _chat(service, tenant))[0] == 429
    await _set_limits(service, tenant, "limits")
    assert (await _chat(service, tenant))[0] == 200


async def test_a_disabled_workspace_is_refused_but_can_look(service: RunningService) -> None:
    """Its keys are refused where something counts, at once, and see their usage all the same, until it is enabled."""
    tenant = await service.tenant()
    workspaces: Any = workspace_service_pb2_grpc.WorkspaceServiceStub(service.core.channel)
    for disabled, expected in ((False, 200), (True, 403), (False, 200)):
        request = UpdateWorkspaceRequest(
            workspace_id=tenant.workspace_id, disabled=disabled, update_mask=FieldMask(paths=["disabled"])
        )
        await workspaces.UpdateWorkspace(request, metadata=service.metadata())
        status, _, body = await _chat(service, tenant)
        assert status == expected
        if disabled:
            assert body["error"]["code"] == "workspace_disabled"
        assert (await _get(service, tenant, "/key"))["data"]["workspace_id"] == tenant.workspace_id
    assert (await _get(service, tenant, "/usage"))["data"][0]["message_count"] == 2


async def test_the_official_client_hears_which_limit(service: RunningService) -> None:
    """Whoever uses OpenAI's client gets its RateLimitError with the type and the headers."""
    tenant = await service.tenant(limits=KeyLimits(concurrent_requests=0))
    async with openai.AsyncOpenAI(base_url=service.base_url, api_key=tenant.key, max_retries=0) as client:
        with pytest.raises(openai.RateLimitError) as caught:
            await client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "Hi"}])
    assert (caught.value.type, caught.value.code) == ("requests", "rate_limit_exceeded")
    assert caught.value.response.headers["x-ratelimit-limit-requests"] == "0"
