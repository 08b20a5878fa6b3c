"""Bad input through the whole service: a 4xx in OpenAI's JSON, never a 500, and nobody is charged."""

import asyncio
import io
import json
from typing import Any

import aiohttp
import pytest
from service import MODEL, RunningService

CHAT = "/chat/completions"
USER = {"role": "user", "content": "Hi"}
VALID: dict[str, Any] = {"model": MODEL, "messages": [USER]}
MIB = 1024 * 1024


def chat(**members: Any) -> bytes:
    """A valid request with members added or replaced."""
    return json.dumps({**VALID, **members}).encode()


BAD_BODIES: list[tuple[str, bytes, str | None, str | None]] = [
    ("empty", b"", None, None),
    ("no JSON", b"{", None, None),
    ("an array", b"[]", None, "invalid_type"),
    ("a number", b"5", None, "invalid_type"),
    ("invalid UTF-8", b'{"model": "\xff"}', None, None),
    ("NUL", chat(messages=[{"role": "user", "content": "a\0b"}]), None, None),
    ("NUL in an unknown member", chat(x={"y": ["\0"]}), None, None),
    ("lone surrogate", b'{"model": "m", "messages": [{"role": "user", "content": "\\ud800"}]}', None, None),
    ("NaN", b'{"model": "m", "temperature": NaN}', None, None),
    ("Infinity", b'{"model": "m", "temperature": 1e999}', None, None),
    ("65 levels", b'{"x":' + b"[" * 64 + b"]" * 64 + b"}", None, None),
    ("5,000 levels", b"[" * 5_000 + b"]" * 5_000, None, None),
    ("no model", json.dumps({"messages": [USER]}).encode(), "model", "missing_required_parameter"),
    ("null model", chat(model=None), "model", "missing_required_parameter"),
    ("model of a wrong type", chat(model=5), "model", "invalid_type"),
    ("no messages", json.dumps({"model": MODEL}).encode(), "messages", "missing_required_parameter"),
    ("empty messages", chat(messages=[]), "messages", "missing_required_parameter"),
    ("messages of a wrong type", chat(messages="Hi"), "messages", "invalid_type"),
    ("message of a wrong type", chat(messages=[USER, "Hi"]), "messages[1]", "invalid_type"),
    ("null message", chat(messages=[None]), "messages[0]", "invalid_type"),
    ("no role", chat(messages=[{"content": "Hi"}]), "messages[0].role", "missing_required_parameter"),
    ("unknown role", chat(messages=[{"role": "king", "content": "Hi"}]), "messages[0].role", "invalid_value"),
    ("content of a wrong type", chat(messages=[{"role": "user", "content": 5}]), "messages[0].content", "invalid_type"),
    ("temperature as a string", chat(temperature="hot"), "temperature", "invalid_type"),
    ("temperature too high", chat(temperature=3), "temperature", "invalid_value"),
    ("stream as a string", chat(stream="yes"), "stream", "invalid_type"),
    ("no choices wanted", chat(n=0), "n", "invalid_value"),
    ("half a choice", chat(n=1.5), "n", "invalid_type"),
    ("negative max_tokens", chat(max_tokens=-1), "max_tokens", "invalid_value"),
    ("seed beyond 64 bits", chat(seed=2**64), "seed", "invalid_value"),
    ("tools of a wrong type", chat(tools={}), "tools", "invalid_type"),
    ("stop of a wrong type", chat(stop=[1]), "stop[0]", "invalid_type"),
]


async def send(service: RunningService, method: str, path: str, **request: Any) -> tuple[int, Any, Any]:
    """Sends a request with a good key and returns status, body as JSON, and headers."""
    headers = {"authorization": f"Bearer {service.developer_key}", **request.pop("headers", {})}
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, service.http_url + path, headers=headers, **request) as response,
    ):
        text = await response.read()
        assert response.headers["content-type"].startswith("application/json"), text
        return response.status, json.loads(text), response.headers


def check(status: int, answer: Any, headers: Any, *, expected: int) -> dict[str, Any]:
    """Checks status and form of an error and returns its four members."""
    assert status == expected, answer
    assert headers["x-request-id"].startswith("req_")
    assert set(answer) == {"error"}
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    assert answer["error"]["message"]
    error: dict[str, Any] = answer["error"]
    return error


async def nobody_charged(service: RunningService) -> None:
    """Checks that nothing was asked, reserved or counted."""
    assert service.upstream.requests == []
    assert await service.rows("SELECT * FROM ledger") == []


async def test_bad_bodies(service: RunningService) -> None:
    """Every malformed or wrong body is a 400 that names the member and the fault, and nobody is charged."""
    for name, body, param, code in BAD_BODIES:
        error = check(*await send(service, "POST", f"/v1{CHAT}", data=body), expected=400)
        assert (error["param"], error["code"]) == (param, code), name
        assert error["type"] == "invalid_request_error"
    await nobody_charged(service)


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_of_40_mib(service: RunningService, chunked: bool) -> None:
    """40 MiB are refused with 413, whether the length is announced or not."""

    async def pieces() -> Any:
        for _ in range(40):
            yield b" " * MIB

    body: Any = pieces() if chunked else io.BytesIO(b" " * (40 * MIB))
    try:
        answer = await send(service, "POST", f"/v1{CHAT}", data=body)
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError):
        return  # refused and closed while we were still sending: this client then cannot read the answer
    check(*answer, expected=413)
    await nobody_charged(service)


async def test_a_large_valid_body_is_served(service: RunningService) -> None:
    """A 5 MiB prompt is within the limits of body and gRPC message, and reaches the provider whole."""
    text = "word " * (5 * MIB // 5)
    payload = io.BytesIO(chat(model="scripted/big", messages=[{"role": "user", "content": text}]))
    status, answer, _ = await send(service, "POST", f"/v1{CHAT}", data=payload)
    assert status == 200, answer
    assert service.upstream.requests[-1].json["messages"][0]["content"] == text


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("POST", "/v1/embeddings", 404, "unknown_url"),
        ("GET", "/nowhere", 404, "unknown_url"),
        ("GET", "/", 404, "unknown_url"),
        ("GET", "/v1/models/nobody/nothing", 404, "model_not_found"),
        ("GET", "/v1/models/nobody%2Fnothing", 404, "model_not_found"),
        ("GET", "/v1/chat/completions", 405, "method_not_supported"),
        ("DELETE", "/api/openai/v1/models", 405, "method_not_supported"),
    ],
)
async def test_wrong_routes_and_methods(
    service: RunningService, method: str, path: str, status: int, code: str
) -> None:
    """Unknown routes and wrong methods answer with OpenAI's errors."""
    error = check(*await send(service, method, path), expected=status)
    assert error["code"] == code


async def test_compressed_body(service: RunningService) -> None:
    """A compressed body is refused with 415: a small one could unpack to anything."""
    check(*await send(service, "POST", f"/v1{CHAT}", data=b"x", headers={"content-encoding": "gzip"}), expected=415)


async def test_without_and_with_two_keys(service: RunningService) -> None:
    """No key is a 401, two different ones a 400."""
    url = f"{service.http_url}/v1/models"
    async with aiohttp.ClientSession() as session:
        async with session.get(url) as response:
            check(response.status, await response.json(), response.headers, expected=401)
        two = [("authorization", f"Bearer {service.developer_key}"), ("authorization", "Bearer qg_live_other")]
        async with session.get(url, headers=two) as response:
            check(response.status, await response.json(), response.headers, expected=400)


async def test_no_http_at_all(service: RunningService) -> None:
    """Bytes that are no HTTP get a 400 and a closed connection."""
    host, port = service.http_url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"\x16\x03\x01 this is not http\r\n\r\n")
    async with asyncio.timeout(15):
        answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.0 400 "))
    assert b'"invalid_request_error"' in answer
