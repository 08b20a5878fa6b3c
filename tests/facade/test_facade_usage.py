"""`GET /key` and `GET /usage`: what is asked of the core, what clients see, and what is refused."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from aiohttp import ClientSession
from fakes.facade_site import KEY
from fakes.fake_core import FakeFailure
from fakes.fake_usage_core import FakeUsageCore

from quillgate.v1.metering_service_pb2 import (
    USAGE_DIMENSION_DAY,
    USAGE_DIMENSION_ENDPOINT,
    USAGE_DIMENSION_KEY,
    USAGE_DIMENSION_MODEL,
    USAGE_DIMENSION_UPSTREAM,
    DailyMessageCount,
    Limit,
    LimitState,
    UsageBreakdown,
)

MIDNIGHT = datetime(2030, 1, 2, tzinfo=UTC)


@pytest.fixture
async def core() -> AsyncIterator[FakeUsageCore]:
    """A core that tells what the test fills in."""
    async with FakeUsageCore() as fake:
        yield fake


def _limit(core: FakeUsageCore, name: str, value: int, remaining: int, reset: datetime | None = MIDNIGHT) -> None:
    state = LimitState(limit=Limit.Value(f"LIMIT_{name}"), value=value, remaining=remaining)
    if reset is not None:
        state.reset_time.FromDatetime(reset)
    core.key_usage.limits.append(state)


async def _key(http: ClientSession) -> dict[str, Any]:
    """The answer of /key."""
    async with http.get("/v1/key") as answer:
        body: dict[str, Any] = await answer.json()
    assert (answer.status, answer.content_type, list(body)) == (200, "application/json", ["data"])
    data: dict[str, Any] = body["data"]
    return data


@pytest.mark.parametrize("path", ["/v1/key", "/api/openai/v1/key", "/v1/usage", "/v1/usage?group_by=model"])
async def test_the_key_that_asks_is_asked_about(core: FakeUsageCore, http: ClientSession, path: str) -> None:
    """The caller's key goes to the core, and no id: nobody sees another's. The answer has an id as all have."""
    async with http.get(path) as answer:
        assert answer.status == 200
    assert core.metadata[0]["authorization"] == f"Bearer {KEY}"
    assert core.metadata[0]["x-request-id"] == answer.headers["x-request-id"]
    request = core.requests[0]
    assert not getattr(request, "key_id", "") and not getattr(request, "workspace_id", "")


async def test_a_key_in_openrouters_words(core: FakeUsageCore, http: ClientSession) -> None:
    """The members of OpenRouter's answer are there, in messages: the tightest limit, and usage by day and month."""
    usage = core.key_usage
    usage.name, usage.remaining_messages = "laptop", 4
    usage.scopes.extend(["inference", "keys.manage"])
    usage.expire_time.FromDatetime(MIDNIGHT)
    usage.today.message_count, usage.month.message_count = 6, 31
    usage.today.byok_message_count, usage.month.byok_message_count = 2, 3
    _limit(core, "DAILY_MESSAGE_ALLOWANCE", 500, 494)
    _limit(core, "KEY_MONTHLY_MESSAGES", 35, 4)
    _limit(core, "KEY_REQUESTS_PER_MINUTE", 60, 60)
    data = await _key(http)
    assert {name: data[name] for name in list(data)[: list(data).index("unit")]} == {
        "label": "laptop",
        "limit": 35,
        "limit_remaining": 4,
        "limit_reset": "monthly",
        "include_byok_in_limit": False,
        "usage": 31,
        "usage_daily": 6,
        "usage_monthly": 31,
        "byok_usage": 3,
        "byok_usage_daily": 2,
        "byok_usage_monthly": 3,
        "is_free_tier": False,
        "is_management_key": True,
        "is_provisioning_key": True,
        "rate_limit": {"requests": 60, "interval": "60s"},
        "expires_at": "2030-01-02T00:00:00Z",
    }


async def test_a_key_in_our_words(core: FakeUsageCore, http: ClientSession) -> None:
    """Every limit is told with its state under the contract's names, and all sums of day and month."""
    usage = core.key_usage
    usage.key_id, usage.workspace_id, usage.remaining_messages = "key_1", "ws_1", 0
    usage.scopes.append("inference")
    usage.allowed_models.append("m")
    usage.today.held_messages = 1
    usage.month.input_tokens = 2
    _limit(core, "DAILY_MESSAGE_ALLOWANCE", 5, 0)
    _limit(core, "KEY_CONCURRENT_REQUESTS", 3, 2, None)
    data = await _key(http)
    zeros = dict.fromkeys(
        (
            "message_count",
            "held_messages",
            "input_tokens",
            "cached_tokens",
            "output_tokens",
            "request_count",
            "byok_message_count",
        ),
        0,
    )
    assert {name: data[name] for name in list(data)[list(data).index("unit") :]} == {
        "unit": "messages",
        "key_id": "key_1",
        "workspace_id": "ws_1",
        "scopes": ["inference"],
        "allowed_models": ["m"],
        "limits": [
            {"limit": "daily_message_allowance", "value": 5, "remaining": 0, "reset_time": "2030-01-02T00:00:00Z"},
            {"limit": "key_concurrent_requests", "value": 3, "remaining": 2, "reset_time": None},
        ],
        "today": {**zeros, "held_messages": 1},
        "month": {**zeros, "input_tokens": 2},
    }
    assert (data["limit"], data["limit_remaining"], data["limit_reset"]) == (5, 0, "daily")
    assert data["is_management_key"] is False


async def test_a_key_without_limits(core: FakeUsageCore, http: ClientSession) -> None:
    """No limit is null, as OpenRouter says it, also where an allowance is told that refuses nobody."""
    _limit(core, "DAILY_MESSAGE_ALLOWANCE", 0, 0)
    data = await _key(http)
    assert (data["limit"], data["limit_remaining"], data["limit_reset"], data["expires_at"]) == (None,) * 4
    assert data["rate_limit"] == {"requests": -1, "interval": "60s"}


async def test_days_with_what_is_left(core: FakeUsageCore, http: ClientSession) -> None:
    """By default the days are told, every column of them, and what is left of day and month."""
    day = DailyMessageCount(workspace_id="ws_1", day="2030-01-01", message_count=1, input_tokens=10, output_tokens=5)
    core.days.days.append(day)
    core.days.daily_message_allowance, core.days.remaining_messages = 10, 9
    core.days.reset_time.FromDatetime(MIDNIGHT)
    async with http.get("/v1/usage?start_day=2029-12-31&end_day=2030-01-01") as answer:
        body = await answer.json()
    assert (core.requests[0].start_day, core.requests[0].end_day) == ("2029-12-31", "2030-01-01")
    (row,) = body.pop("data")
    assert body == {
        "object": "list",
        "group_by": ["day"],
        "daily_message_allowance": 10,
        "remaining_messages": 9,
        "reset_time": "2030-01-02T00:00:00Z",
        "monthly_message_allowance": None,
        "monthly_remaining_messages": None,
    }
    assert set(row) == {field.name for field in DailyMessageCount.DESCRIPTOR.fields}
    assert (row["day"], row["message_count"], row["input_tokens"], row["output_tokens"]) == ("2030-01-01", 1, 10, 5)


GROUPS = [
    ("model", [USAGE_DIMENSION_MODEL], {"model"}),
    ("day,key", [USAGE_DIMENSION_DAY, USAGE_DIMENSION_KEY], {"day", "key_id", "key_name"}),
    ("endpoint,%20upstream", [USAGE_DIMENSION_ENDPOINT, USAGE_DIMENSION_UPSTREAM], {"endpoint", "upstream"}),
]


@pytest.mark.parametrize(("text", "dimensions", "members"), GROUPS)
async def test_breakdown_by_what_was_asked(
    core: FakeUsageCore, http: ClientSession, text: str, dimensions: list[int], members: set[str]
) -> None:
    """More than days are a breakdown: rows name the groups that were asked for, in their order, and nothing else."""
    row = UsageBreakdown(day="d", model="m", key_id="k", key_name="n", endpoint="e", upstream="u", message_count=3)
    core.breakdown.rows.append(row)
    core.breakdown.truncated = True
    async with http.get(f"/v1/usage?group_by={text}&start_day=2030-01-01&end_day=2030-01-02&limit=7") as answer:
        body = await answer.json()
    request = core.requests[0]
    assert (list(request.dimensions), request.limit) == (dimensions, 7)
    assert (request.start_day, request.end_day) == ("2030-01-01", "2030-01-02")
    assert core.deadlines_s[0] > 30
    assert (body["object"], body["truncated"]) == ("list", True)
    counts = {
        "message_count",
        "byok_message_count",
        "input_tokens",
        "cached_tokens",
        "output_tokens",
        "request_count",
        "cost_picodollars",
        "unpriced_request_count",
    }
    assert set(body["data"][0]) == members | counts
    assert body["data"][0]["message_count"] == 3


BAD = [
    ("group_by=colour", "group_by", "invalid_value"),
    ("group_by=", "group_by", "invalid_value"),
    ("group_by=day,day", "group_by", "invalid_value"),
    ("group_by=unspecified", "group_by", "invalid_value"),
    ("group_by=model&limit=0", "limit", "invalid_value"),
    ("group_by=model&limit=10001", "limit", "invalid_value"),
    ("group_by=model&limit=-1", "limit", "invalid_value"),
    ("group_by=model&limit=%D9%A1", "limit", "invalid_value"),
    ("limit=5", "limit", "unsupported_value"),
    ("start=2030-01-01", "start", "unknown_parameter"),
    ("workspace_id=ws_2", "workspace_id", "unknown_parameter"),
    ("start_day=2030-01-01&start_day=2030-01-02", "start_day", "invalid_value"),
    ("%FF%ED%A0%80=1", None, "unknown_parameter"),
]


@pytest.mark.parametrize(("query", "param", "code"), BAD)
async def test_bad_parameters(
    core: FakeUsageCore, http: ClientSession, query: str, param: str | None, code: str
) -> None:
    """What cannot be meant is refused in OpenAI's shape, by name, before the core is asked."""
    async with http.get(f"/v1/usage?{query}") as answer:
        error = (await answer.json())["error"]
    assert (answer.status, error["type"], error["code"]) == (400, "invalid_request_error", code)
    assert param in (None, error["param"])
    assert core.requests == []


@pytest.mark.parametrize("group_by", ["day", "model"])
async def test_days_are_the_cores_to_judge(core: FakeUsageCore, http: ClientSession, group_by: str) -> None:
    """A day that is none is refused by the core, whose words are shown."""
    metadata = {"param": "start_day", "code": "invalid_value"}
    core.script.failure = FakeFailure(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", "No day.", metadata)
    async with http.get(f"/v1/usage?start_day=soon&group_by={group_by}") as answer:
        body = await answer.json()
    assert core.requests[0].start_day == "soon"
    assert (answer.status, body) == (
        400,
        {
            "error": {
                "message": "No day.",
                "type": "invalid_request_error",
                "param": "start_day",
                "code": "invalid_value",
            }
        },
    )


async def test_usage_takes_its_scope(core: FakeUsageCore, http: ClientSession) -> None:
    """What the core refuses for want of a scope is a 403."""
    metadata = {"scope": "usage.read"}
    core.script.failure = FakeFailure(grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING", "No.", metadata)
    async with http.get("/v1/usage") as answer:
        assert (answer.status, (await answer.json())["error"]["code"]) == (403, "insufficient_permissions")


@pytest.mark.parametrize("path", ["/v1/key", "/v1/usage"])
async def test_without_a_key(core: FakeUsageCore, http: ClientSession, path: str) -> None:
    """Nothing is told to those who present no key."""
    async with http.get(path, headers={"authorization": ""}) as answer:
        assert answer.status == 401
    assert core.requests == []
