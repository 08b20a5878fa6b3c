"""The error table: what each failure of the core becomes for an OpenAI client."""

import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from aiohttp import ClientSession
from fakes.facade_site import KEY
from fakes.fake_core import FakeCore, FakeFailure

from quillgate.v1.error_reason_pb2 import ErrorReason
from quillgate_facade.errors import ROWS

CHAT = "/v1/chat/completions"
BODY = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
Code = grpc.StatusCode


def error(message: str, kind: str, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    """The body of an error."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def ask(message: str) -> str:
    """The text for a fault of ours, with the request id to be filled in."""
    return (
        "The server had an error while processing your request. Sorry about that! "
        f"Please mention the request id {message} when you ask about it."
    )


WRONG_KEY = (
    "Incorrect API key provided: qg_live_****wxyz. It may be mistyped, expired or revoked; "
    "ask whoever runs this service for a new one."
)
AWAY = "The service is not available right now. Please try again."
BAD = "invalid_request_error"

#: reason, gRPC code, metadata, HTTP status, type, code, param, headers beside the usual ones
REASONS: list[tuple[str, grpc.StatusCode, dict[str, str], int, str, str | None, str | None, dict[str, str]]] = [
    ("INVALID_REQUEST", Code.INVALID_ARGUMENT, {"param": "n", "code": "bad_n"}, 400, BAD, "bad_n", "n", {}),
    ("INVALID_REQUEST", Code.INVALID_ARGUMENT, {"param": "", "code": ""}, 400, BAD, None, None, {}),
    ("SCOPE_MISSING", Code.PERMISSION_DENIED, {"scope": "inference"}, 403, BAD, "insufficient_permissions", None, {}),
    ("MODEL_NOT_ALLOWED", Code.PERMISSION_DENIED, {"model": "m"}, 403, BAD, "model_not_allowed", None, {}),
    ("MODEL_NOT_FOUND", Code.NOT_FOUND, {"model": "m"}, 404, BAD, "model_not_found", None, {}),
    ("KEY_NOT_FOUND", Code.NOT_FOUND, {"key_id": "k"}, 404, BAD, "key_not_found", None, {}),
    ("WORKSPACE_NOT_FOUND", Code.NOT_FOUND, {"workspace_id": "w"}, 404, BAD, "workspace_not_found", None, {}),
    ("RESPONSE_NOT_FOUND", Code.NOT_FOUND, {"response_id": "r"}, 404, BAD, None, None, {}),
    ("RESERVATION_NOT_FOUND", Code.NOT_FOUND, {"request_id": "r"}, 404, BAD, "reservation_not_found", None, {}),
    (
        *("DUPLICATE_REQUEST", Code.ALREADY_EXISTS, {"request_id": "r"}, 409, BAD, "duplicate_request", None),
        {"x-should-retry": "false"},
    ),
    (
        *("RESERVATION_CLOSED", Code.FAILED_PRECONDITION, {"state": "settled"}, 409, BAD, "reservation_closed", None),
        {"x-should-retry": "false"},
    ),
    (
        *("DUPLICATE_IN_PROGRESS", Code.ABORTED, {"request_id": "r"}, 409, BAD, "duplicate_in_progress", None),
        {"x-should-retry": "false"},
    ),
    (
        *("ALREADY_COMPLETED", Code.ALREADY_EXISTS, {"request_id": "r"}, 409, BAD, "already_completed", None),
        {"x-should-retry": "false"},
    ),
    (
        *("IDEMPOTENCY_MISMATCH", Code.INVALID_ARGUMENT, {"request_id": "r"}, 422, BAD, "idempotency_mismatch", None),
        {"x-should-retry": "false"},
    ),
    (
        *("KEY_REVOKED", Code.FAILED_PRECONDITION, {"key_id": "k"}, 409, BAD, "key_revoked", None),
        {"x-should-retry": "false"},
    ),
    (
        *("WORKSPACE_DISABLED", Code.PERMISSION_DENIED, {"workspace_id": "w"}, 403, BAD, "workspace_disabled", None),
        {},
    ),
    (
        *("LEDGER_DAY_KEPT", Code.FAILED_PRECONDITION, {"day": "d", "cause": "recent"}, 409, BAD, "ledger_day_kept"),
        *(None, {"x-should-retry": "false"}),
    ),
    (
        *("RATE_LIMITED", Code.RESOURCE_EXHAUSTED, {"retry_after_s": "7"}, 429, "requests", "rate_limit_exceeded"),
        *(None, {"retry-after": "7"}),
    ),
    (
        *("ALLOWANCE_EXHAUSTED", Code.RESOURCE_EXHAUSTED, {"reset_time": "2000-01-01T00:00:00Z"}, 429),
        *("insufficient_quota", "insufficient_quota", None),
        {"x-should-retry": "false", "retry-after": "1"},
    ),
    ("PROVIDER_REJECTED", Code.INVALID_ARGUMENT, {"code": "too_long", "param": "x"}, 400, BAD, "too_long", "x", {}),
    ("PROVIDER_UNAVAILABLE", Code.UNAVAILABLE, {"provider": "p"}, 502, "server_error", None, None, {}),
    ("PROVIDER_TIMEOUT", Code.DEADLINE_EXCEEDED, {"provider": "p"}, 504, "server_error", None, None, {}),
    ("OVERLOADED", Code.UNAVAILABLE, {"retry_after_s": "3"}, 503, "server_error", None, None, {"retry-after": "3"}),
    ("OVERLOADED", Code.UNAVAILABLE, {}, 503, "server_error", None, None, {"retry-after": "1"}),
    ("NEW_REASON", Code.FAILED_PRECONDITION, {}, 409, BAD, None, None, {"x-should-retry": "false"}),
]


def extra_headers(answer: Any) -> dict[str, str]:
    """The headers that only some errors have."""
    names = ("x-should-retry", "retry-after", "www-authenticate", "allow")
    return {name: answer.headers[name] for name in names if name in answer.headers}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("row", REASONS, ids=lambda row: row[0])
async def test_reasons(core: FakeCore, http: ClientSession, row: Any, stream: bool) -> None:
    """Each reason has its status, type, code, param and retry headers, streamed or not, with the core's own text."""
    reason, code, metadata, status, kind, expected_code, param, headers = row
    core.script.failure = FakeFailure(code, reason, "What the core says.", metadata)
    async with http.post(CHAT, json={**BODY, "stream": stream}) as answer:
        body = await answer.json()
    assert answer.status == status
    assert body == error("What the core says.", kind, expected_code, param)
    assert extra_headers(answer) == headers
    assert answer.headers["x-request-id"] == core.metadata[0]["x-request-id"]


@pytest.mark.parametrize("reason", ["KEY_INVALID", None])
async def test_wrong_key(core: FakeCore, http: ClientSession, reason: str | None) -> None:
    """A refused key is named by its last four characters only."""
    core.script.failure = FakeFailure(Code.UNAUTHENTICATED, reason)
    async with http.post(CHAT, json=BODY) as answer:
        body = await answer.json()
    assert answer.status == 401
    assert body == error(WRONG_KEY, BAD, "invalid_api_key")
    assert extra_headers(answer) == {"www-authenticate": "Bearer"}


@pytest.mark.parametrize(
    ("code", "reason"),
    [(Code.INTERNAL, "INTERNAL"), (Code.INTERNAL, None), (Code.UNKNOWN, None), (Code.DATA_LOSS, "NEW_REASON")],
)
async def test_faults_of_ours(core: FakeCore, http: ClientSession, code: grpc.StatusCode, reason: str | None) -> None:
    """A fault of ours shows the request id and nothing of what the core said."""
    core.script.failure = FakeFailure(code, reason, "SELECT secret")
    async with http.post(CHAT, json=BODY) as answer:
        body = await answer.json()
    assert answer.status == 500
    assert body == error(ask(answer.headers["x-request-id"]), "server_error")


@pytest.mark.parametrize(
    ("code", "status", "expected", "headers"),
    [
        (Code.UNAVAILABLE, 503, error(AWAY, "server_error"), {"retry-after": "1"}),
        (Code.CANCELLED, 503, error(AWAY, "server_error"), {"retry-after": "1"}),
        (Code.DEADLINE_EXCEEDED, 504, error("The request took too long.", "server_error"), {}),
        (Code.INVALID_ARGUMENT, 400, error("The request could not be served as sent.", BAD), {}),
        (Code.NOT_FOUND, 404, error("What you asked for does not exist.", BAD), {}),
        (
            Code.PERMISSION_DENIED,
            403,
            error("You have insufficient permissions for this operation.", BAD, "insufficient_permissions"),
            {},
        ),
        (Code.ALREADY_EXISTS, 409, error("It exists already.", BAD), {"x-should-retry": "false"}),
        (Code.ABORTED, 409, error("The request lost against another. Please try again.", BAD), {}),
        (
            Code.RESOURCE_EXHAUSTED,
            429,
            error("Too much is asked for at once. Please try again.", "requests", "rate_limit_exceeded"),
            {"retry-after": "1"},
        ),
    ],
)
@pytest.mark.parametrize("domain", [None, "elsewhere.example"])
async def test_failures_without_our_reason(
    *,
    core: FakeCore,
    http: ClientSession,
    code: grpc.StatusCode,
    status: int,
    expected: dict[str, Any],
    headers: dict[str, str],
    domain: str | None,
) -> None:
    """What gRPC itself reports is translated by its code, and its text, which may hold internals, is not shown."""
    core.script.failure = FakeFailure(code, domain and "OVERLOADED", "ipv4:10.0.0.1 says no", domain=domain or "")
    async with http.post(CHAT, json=BODY) as answer:
        body = await answer.json()
    assert (answer.status, body, extra_headers(answer)) == (status, expected, headers)


async def test_allowance_says_when_to_come_back(core: FakeCore, http: ClientSession) -> None:
    """A spent allowance tells the seconds until it resets."""
    reset = (datetime.now(UTC) + timedelta(hours=3)).isoformat()
    core.script.failure = FakeFailure(Code.RESOURCE_EXHAUSTED, "ALLOWANCE_EXHAUSTED", "Spent.", {"reset_time": reset})
    async with http.post(CHAT, json=BODY) as answer:
        await answer.read()
    assert 10_700 < int(answer.headers["retry-after"]) <= 10_800


async def test_a_spent_allowance_is_told_in_openai_s_words_too(core: FakeCore, http: ClientSession) -> None:
    """Messages stand for requests and, 16,000 each, for tokens, as in answers."""
    reset = (datetime.now(UTC) + timedelta(hours=3)).isoformat()
    metadata = {"limit": "key_daily_messages", "allowance": "50", "remaining_messages": "2", "reset_time": reset}
    core.script.failure = FakeFailure(Code.RESOURCE_EXHAUSTED, "ALLOWANCE_EXHAUSTED", "Spent.", metadata)
    async with http.post(CHAT, json=BODY) as answer:
        await answer.read()
    told = {name: value for name, value in answer.headers.items() if name.startswith("x-ratelimit-")}
    assert told.pop("x-ratelimit-reset-requests") == told.pop("x-ratelimit-reset-tokens") in ("3h0m0s", "2h59m60s")
    assert told == {
        "x-ratelimit-limit-requests": "50",
        "x-ratelimit-remaining-requests": "2",
        "x-ratelimit-limit-tokens": "800000",
        "x-ratelimit-remaining-tokens": "32000",
    }


@pytest.mark.parametrize(
    ("limit", "unit"),
    [
        ("key_requests_per_minute", "requests"),
        ("key_tokens_per_minute", "tokens"),
        ("key_concurrent_requests", "requests"),
    ],
)
async def test_rate_limits_say_which_and_until_when(core: FakeCore, http: ClientSession, limit: str, unit: str) -> None:
    """The type is what is limited, the headers tell how much of it there is and when; a retry is welcome."""
    reset = (datetime.now(UTC) + timedelta(seconds=40)).isoformat()
    metadata = {"limit": limit, "value": "60", "remaining": "2", "reset_time": reset, "retry_after_s": "40"}
    core.script.failure = FakeFailure(Code.RESOURCE_EXHAUSTED, "RATE_LIMITED", "Too fast.", metadata)
    async with http.post(CHAT, json=BODY) as answer:
        body = await answer.json()
    assert (answer.status, body) == (429, error("Too fast.", unit, "rate_limit_exceeded"))
    assert extra_headers(answer) == {"retry-after": "40"}
    limits = {name: value for name, value in answer.headers.items() if name.startswith("x-ratelimit-")}
    left = limits.pop(f"x-ratelimit-reset-{unit}")
    assert limits == {f"x-ratelimit-limit-{unit}": "60", f"x-ratelimit-remaining-{unit}": "2"}
    assert 1 <= int(left.removesuffix("s")) <= 40


@pytest.mark.parametrize("odd", [{"value": "many"}, {"remaining": ""}, {"reset_time": "soon"}])
async def test_odd_rate_limits(core: FakeCore, http: ClientSession, odd: dict[str, str]) -> None:
    """What cannot be read of a limit is left out, and the refusal is told all the same."""
    metadata = {"value": "60", "remaining": "2", "reset_time": "2030-01-01T00:00:00Z", "retry_after_s": "5", **odd}
    core.script.failure = FakeFailure(Code.RESOURCE_EXHAUSTED, "RATE_LIMITED", "Too fast.", metadata)
    async with http.post(CHAT, json=BODY) as answer:
        await answer.read()
    assert (answer.status, answer.headers["retry-after"]) == (429, "5")
    assert not [name for name in answer.headers if name.startswith("x-ratelimit-")]


async def test_a_spent_month_is_waited_for(core: FakeCore, http: ClientSession) -> None:
    """What resets with the month is told in full, though nobody's client waits so long by itself."""
    reset = (datetime.now(UTC) + timedelta(days=20)).isoformat()
    core.script.failure = FakeFailure(Code.RESOURCE_EXHAUSTED, "ALLOWANCE_EXHAUSTED", "Spent.", {"reset_time": reset})
    async with http.post(CHAT, json=BODY) as answer:
        await answer.read()
    assert 20 * 86_400 - 100 < int(answer.headers["retry-after"]) <= 20 * 86_400
    assert answer.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("reset", ["", "soon", "2999-01-01T00:00:00", "2999-01-01T00:00:00Z"])
async def test_odd_reset_times(core: FakeCore, http: ClientSession, reset: str) -> None:
    """A reset time that cannot be read or lies far ahead still gives a number from 1 to a month."""
    core.script.failure = FakeFailure(Code.RESOURCE_EXHAUSTED, "ALLOWANCE_EXHAUSTED", "Spent.", {"reset_time": reset})
    async with http.post(CHAT, json=BODY) as answer:
        await answer.read()
    assert answer.headers["retry-after"] in ("1", "2678400")


async def test_core_away(core: FakeCore, http: ClientSession, caplog: pytest.LogCaptureFixture) -> None:
    """Without a core the client hears 503 and when to retry, and the log says what gRPC says."""
    await core.__aexit__()
    with caplog.at_level(logging.WARNING):
        async with http.post(CHAT, json=BODY) as answer:
            body = await answer.json()
    assert (answer.status, body) == (503, error(AWAY, "server_error"))
    assert answer.headers["retry-after"] == "1"
    assert f"{answer.headers['x-request-id']}: the core is unavailable" in caplog.text
    assert KEY not in caplog.text


def test_every_reason_has_a_row() -> None:
    """The table and the contract list the same reasons."""
    names = {name.removeprefix("ERROR_REASON_") for name in ErrorReason.keys()}  # noqa: SIM118
    assert set(ROWS) == names - {"UNSPECIFIED"}
