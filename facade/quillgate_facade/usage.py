"""`GET /key` and `GET /usage`: what the key that asks may use and has used, and what its workspace used.

`/key` has the members of OpenRouter's, counted in messages instead of dollars, and ours beside them. Must not compute:
the core counts. The names in JSON are the contract's.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
from aiohttp import web
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from quillgate.v1.metering_service_pb2 import (
    LIMIT_DAILY_MESSAGE_ALLOWANCE,
    LIMIT_KEY_DAILY_MESSAGES,
    LIMIT_KEY_REQUESTS_PER_MINUTE,
    GetKeyUsageRequest,
    GetKeyUsageResponse,
    Limit,
    LimitState,
    ListDailyMessageCountRequest,
    ListUsageBreakdownRequest,
    UsageDimension,
)
from quillgate_facade.allowance import tightest_of
from quillgate_facade.answers import JSON_HEADERS
from quillgate_facade.config import FacadeConfig
from quillgate_facade.core_client import CoreClient
from quillgate_facade.credential import credential_of
from quillgate_facade.drain import Drain
from quillgate_facade.errors import ApiError
from quillgate_facade.relay import Relay

#: How long a breakdown of many days may take, in seconds; the core ends its query before.
BREAKDOWN_TIMEOUT_S = 35.0

_DAY = "day"
_DIMENSIONS = {name.removeprefix("USAGE_DIMENSION_").lower(): number for name, number in UsageDimension.items()}
_DIMENSIONS.pop("unspecified")
#: The members of a row that say which group it is, by what was asked for.
_GROUP_MEMBERS = {
    "day": ("day",),
    "model": ("model",),
    "key": ("key_id", "key_name"),
    "endpoint": ("endpoint",),
    "upstream": ("upstream",),
}
_ALL_GROUP_MEMBERS = frozenset(member for members in _GROUP_MEMBERS.values() for member in members)
_PARAMETERS = ("start_day", "end_day", "group_by", "limit")
_MAX_LIMIT = 10_000
#: OpenRouter's number for "no limit".
_UNLIMITED = -1
_MANAGING_SCOPES = frozenset({"keys.manage", "platform.admin"})

_dumps = msgspec.json.Encoder().encode


class UsageHandler:
    """Answers questions about limits and usage."""

    def __init__(self, core: CoreClient, config: FacadeConfig, drain: Drain) -> None:
        self._metering = core.metering
        self._config = config
        self._relay = Relay(config, drain)

    async def key(self, request: web.Request) -> web.Response:
        """Tells any key its own limits, what is left of them, and its usage of the day and the month."""
        usage = await self._relay.answer(
            request,
            self._metering.GetKeyUsage,
            GetKeyUsageRequest(),
            credential=credential_of(request.headers),
            timeout_s=self._config.call_timeout_s,
        )
        return _json({"data": _key_members(usage)})

    async def usage(self, request: web.Request) -> web.Response:
        """Tells what the key's workspace used: its days with what is left, or a breakdown by more than days."""
        credential = credential_of(request.headers)
        query = _query(request)
        groups = _groups(query.get("group_by", _DAY))
        if groups == [_DAY]:
            return await self._days(request, query, credential)
        question = ListUsageBreakdownRequest(
            start_day=query.get("start_day", ""),
            end_day=query.get("end_day", ""),
            dimensions=[_DIMENSIONS[name] for name in groups],
            limit=_limit(query.get("limit")),
        )
        answer = await self._relay.answer(
            request,
            self._metering.ListUsageBreakdown,
            question,
            credential=credential,
            timeout_s=BREAKDOWN_TIMEOUT_S,
        )
        others = _ALL_GROUP_MEMBERS - {member for name in groups for member in _GROUP_MEMBERS[name]}
        rows = [_members(row, without=others) for row in answer.rows]
        return _json({"object": "list", "group_by": groups, "data": rows, "truncated": answer.truncated})

    async def _days(self, request: web.Request, query: Mapping[str, str], credential: str) -> web.Response:
        if "limit" in query:
            message = "'limit' goes with a breakdown: name more than 'day' in 'group_by'."
            raise ApiError(400, message, code="unsupported_value", param="limit")
        answer = await self._relay.answer(
            request,
            self._metering.ListDailyMessageCount,
            ListDailyMessageCountRequest(start_day=query.get("start_day", ""), end_day=query.get("end_day", "")),
            credential=credential,
            timeout_s=self._config.call_timeout_s,
        )
        rows = [_members(day) for day in answer.days]
        left = _members(answer, without=frozenset({"days"}))
        return _json({"object": "list", "group_by": [_DAY], "data": rows, **left})


def _key_members(usage: GetKeyUsageResponse) -> dict[str, Any]:
    """Returns OpenRouter's members, then ours; there is no sum over all time, so `usage` is the month's."""
    binding = [state for state in usage.limits if state.remaining == usage.remaining_messages]
    tightest = tightest_of(binding) if usage.HasField("remaining_messages") else None
    minute = next((state for state in usage.limits if state.limit == LIMIT_KEY_REQUESTS_PER_MINUTE), None)
    manages = not _MANAGING_SCOPES.isdisjoint(usage.scopes)
    return {
        "label": usage.name,
        "limit": None if tightest is None else tightest.value,
        "limit_remaining": None if tightest is None else tightest.remaining,
        "limit_reset": None if tightest is None else _period(tightest),
        "include_byok_in_limit": False,
        "usage": usage.month.message_count,
        "usage_daily": usage.today.message_count,
        "usage_monthly": usage.month.message_count,
        "byok_usage": usage.month.byok_message_count,
        "byok_usage_daily": usage.today.byok_message_count,
        "byok_usage_monthly": usage.month.byok_message_count,
        "is_free_tier": False,
        "is_management_key": manages,
        "is_provisioning_key": manages,
        "rate_limit": {"requests": _UNLIMITED if minute is None else minute.value, "interval": "60s"},
        "expires_at": usage.expire_time.ToJsonString() if usage.HasField("expire_time") else None,
        "unit": "messages",
        "key_id": usage.key_id,
        "workspace_id": usage.workspace_id,
        "scopes": list(usage.scopes),
        "allowed_models": list(usage.allowed_models),
        "limits": [_limit_members(state) for state in usage.limits],
        "today": _members(usage.today),
        "month": _members(usage.month),
    }


def _period(state: LimitState) -> str:
    return "daily" if state.limit in (LIMIT_DAILY_MESSAGE_ALLOWANCE, LIMIT_KEY_DAILY_MESSAGES) else "monthly"


def _limit_members(state: LimitState) -> dict[str, Any]:
    name = Limit.Name(state.limit).removeprefix("LIMIT_").lower()
    return {**_members(state), "limit": name}


def _members(message: Message, *, without: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Returns the fields of a flat message by name; one that is absent is null, a time is RFC 3339."""
    fields = [field for field in message.DESCRIPTOR.fields if field.name not in without]
    return {field.name: _value(message, field) for field in fields}


def _value(message: Message, field: Any) -> Any:
    if field.has_presence and not message.HasField(field.name):
        return None
    value = getattr(message, field.name)
    return value.ToJsonString() if isinstance(value, Timestamp) else value


def _query(request: web.Request) -> dict[str, str]:
    """Returns the URL's parameters; raises ApiError for an unknown one, which would silently mean another range."""
    found: dict[str, str] = {}
    for name, value in request.query.items():
        if name not in _PARAMETERS:
            message = f"Unknown parameter; choose from {', '.join(_PARAMETERS)}."
            raise ApiError(400, message, code="unknown_parameter", param=name[:100])
        if name in found:
            raise ApiError(400, f"'{name}' is given twice.", code="invalid_value", param=name)
        found[name] = value
    return found


def _groups(text: str) -> list[str]:
    """Returns what to group by, each once; raises ApiError for what is none of the dimensions."""
    names = [name.strip() for name in text.split(",")]
    if len(names) != len(set(names)) or not set(names) <= set(_DIMENSIONS):
        message = f"'group_by' must be some of {', '.join(_GROUP_MEMBERS)}, each once, separated by commas."
        raise ApiError(400, message, code="invalid_value", param="group_by")
    return names


def _limit(text: str | None) -> int:
    """Returns the most rows to tell, 0 where nothing is said; raises ApiError."""
    if text is None:
        return 0
    if text.isascii() and text.isdigit() and len(text) <= len(str(_MAX_LIMIT)) and 1 <= int(text) <= _MAX_LIMIT:
        return int(text)
    raise ApiError(400, f"'limit' must be 1 to {_MAX_LIMIT}.", code="invalid_value", param="limit")


def _json(document: Mapping[str, Any]) -> web.Response:
    return web.Response(body=_dumps(document), headers=JSON_HEADERS)
