"""Request bodies: what is too big, too slow, compressed, malformed or of the wrong kind."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import ClientSession, FormData
from fakes.facade_site import KEY, StartFacade, client_of, config
from fakes.fake_core import FakeCore

from quillgate_facade.app import FacadeServer

CHAT = "/v1/chat/completions"
BODY: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
LIMIT = 1000
NOT_JSON = "We could not parse the JSON body of your request: "


def body_of(size: int) -> bytes:
    """A valid request of exactly `size` bytes."""
    body = json.dumps(BODY).encode()
    return body + b" " * (size - len(body))


async def in_pieces(body: bytes, *, pause_s: float = 0.0) -> AsyncIterator[bytes]:
    """Sends a body chunked, 100 bytes at a time."""
    for start in range(0, len(body), 100):
        yield body[start : start + 100]
        await asyncio.sleep(pause_s)


async def refused(http: ClientSession, data: Any, status: int, **headers: str) -> dict[str, Any]:
    """Sends a body that must not reach the core, and returns the error."""
    async with http.post(CHAT, data=data, headers={"content-type": "application/json", **headers}) as answer:
        body = await answer.json()
    assert answer.status == status, body
    assert answer.headers["x-request-id"].startswith("req_")
    return dict(body["error"])


async def raw(facade: FacadeServer, head: str, *pieces: bytes, pause_s: float = 0.0) -> bytes:
    """Sends bytes as they are and returns everything that comes until the facade closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", facade.port)
    writer.write(head.replace("\n", "\r\n").encode())
    for piece in pieces:
        await asyncio.sleep(pause_s)
        writer.write(piece)
    answer = await asyncio.wait_for(reader.read(), 20)
    writer.close()
    return answer


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("size", [LIMIT - 1, LIMIT])
async def test_bodies_up_to_the_limit(core: FakeCore, start: StartFacade, size: int, chunked: bool) -> None:
    """A body of the limit's size is taken, announced or chunked."""
    body = body_of(size)
    facade = await start(config(body_max_bytes=LIMIT))
    data = in_pieces(body) if chunked else body
    async with client_of(facade) as http, http.post(CHAT, data=data) as answer:
        assert answer.status == 200
    assert len(core.requests) == 1


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_byte_too_many(core: FakeCore, start: StartFacade, chunked: bool) -> None:
    """One byte more is refused, announced or chunked, and the core hears nothing of it."""
    body = body_of(LIMIT + 1)
    async with client_of(await start(config(body_max_bytes=LIMIT))) as http:
        error = await refused(http, in_pieces(body, pause_s=0.01) if chunked else body, 413)
    assert error == {
        "message": "Maximum content size limit (1000) exceeded (1001 bytes read).",
        "type": "invalid_request_error",
        "param": None,
        "code": "request_too_large",
    }
    assert not core.requests


async def test_an_announced_size_is_refused_before_it_is_sent(facade: FacadeServer) -> None:
    """With the default limit of 32 MiB, 40 MiB are refused at once, also instead of `100 Continue`."""
    head = f"POST {CHAT} HTTP/1.1\nhost: x\nauthorization: Bearer {KEY}\ncontent-length: 41943040\n"
    answer = await raw(facade, head + "expect: 100-continue\nconnection: close\n\n", b"x" * 41943040)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"request_too_large" in answer


async def test_expect_continue(core: FakeCore, facade: FacadeServer) -> None:
    """A client that waits for `100 Continue` gets it, and then its answer."""
    body = body_of(200)
    head = f"POST {CHAT} HTTP/1.1\nhost: x\nauthorization: Bearer {KEY}\ncontent-length: {len(body)}\n"
    answer = await raw(facade, head + "expect: 100-continue\nconnection: close\n\n", body, pause_s=0.1)
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize("path", ["/v1/models", "/nowhere"])
async def test_other_expectations_are_ignored(facade: FacadeServer, path: str) -> None:
    """An expectation that nobody knows does not make an answer in text."""
    head = f"GET {path} HTTP/1.1\nhost: x\nauthorization: Bearer {KEY}\nexpect: wonders\nconnection: close\n\n"
    answer = await raw(facade, head)
    assert b"\r\ncontent-type: application/json\r\n" in answer.lower()


async def test_a_body_that_stops(core: FakeCore, start: StartFacade) -> None:
    """A body that does not arrive in time is answered 408 and the connection closed."""
    facade = await start(config(body_timeout_s=0.2, linger_timeout_s=0.1))
    head = f"POST {CHAT} HTTP/1.1\nhost: x\nauthorization: Bearer {KEY}\ncontent-length: 100\n\n"
    answer = await raw(facade, head, b'{"model": ')
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"The request body arrived too slowly."' in answer
    assert b"\r\nconnection: close\r\n" in answer.lower()
    assert not core.requests


async def test_a_body_that_trickles(start: StartFacade) -> None:
    """A body slower than the least speed is refused long before the total time is over."""
    settings = config(body_timeout_s=60, body_grace_s=0.2, body_min_bytes_per_s=1_000_000)
    async with client_of(await start(settings)) as http:
        await refused(http, in_pieces(body_of(10_000), pause_s=0.05), 408)


async def test_a_slow_body_that_is_fast_enough(core: FakeCore, start: StartFacade) -> None:
    """A body that keeps up the least speed may take longer than the grace."""
    facade = await start(config(body_grace_s=0.2, body_min_bytes_per_s=1000))
    data = in_pieces(body_of(1000), pause_s=0.04)
    async with client_of(facade) as http, http.post(CHAT, data=data) as answer:
        assert answer.status == 200


async def test_compressed_body(core: FakeCore, http: ClientSession) -> None:
    """A compressed body is refused unread: it could unpack to anything."""
    error = await refused(http, b"\x1f\x8b", 415, **{"content-encoding": "gzip"})
    assert error["type"] == "invalid_request_error"
    async with http.post(CHAT, json=BODY, headers={"content-encoding": "identity"}) as answer:
        assert answer.status == 200


async def test_form(http: ClientSession) -> None:
    """A form is not JSON, and the answer says what is wanted."""
    form = FormData({"model": "m"}, default_to_multipart=True)
    async with http.post(CHAT, data=form()) as answer:
        body = await answer.json()
    assert answer.status == 400
    assert "application/json" in body["error"]["message"]


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "nonsense"])
async def test_any_other_content_type(core: FakeCore, http: ClientSession, content_type: str) -> None:
    """JSON under another name is taken: `curl -d` calls it a form."""
    async with http.post(CHAT, data=json.dumps(BODY), headers={"content-type": content_type}) as answer:
        assert answer.status == 200


def nested(depth: int) -> bytes:
    """A request whose arrays and objects nest `depth` levels deep."""
    return b'{"model": "m", "messages": [], "x": ' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"nonsense",
        b'{"model": NaN}',
        b'{"temperature": Infinity}',
        b'{"model": "\xff"}',
        b'{"model": "\\ud800"}',
        b'{"model": "a\\u0000"}',
        b'{"x": {"a\\u0000": 1}}',
        nested(65),
        b"[" * 100_000,
        b'{"model": "m"}{}',
    ],
    ids=range(12),
)
async def test_what_is_not_json(core: FakeCore, http: ClientSession, data: bytes) -> None:
    """Malformed JSON, bytes that are no UTF-8, lone surrogates, NUL and deep nesting are 400 without a param."""
    error = await refused(http, data, 400)
    assert error["message"].startswith(NOT_JSON)
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", None, None)
    assert not core.requests


async def test_deepest_nesting(core: FakeCore, http: ClientSession) -> None:
    """64 levels are taken."""
    async with http.post(CHAT, data=nested(64)) as answer:
        assert answer.status == 200


@pytest.mark.parametrize(
    ("data", "param", "code"),
    [
        (b'{"model": 5}', "model", "invalid_type"),
        (b'{"messages": [{"role": "user", "content": 5}]}', "messages[0].content", "invalid_type"),
        (b'{"stream": "yes"}', "stream", "invalid_type"),
        (b'{"max_tokens": 9223372036854775808}', "max_tokens", "invalid_value"),
        (b"[]", None, "invalid_type"),
    ],
)
async def test_wrong_types(core: FakeCore, http: ClientSession, data: bytes, param: str | None, code: str) -> None:
    """A member of the wrong kind is named by its path."""
    error = await refused(http, data, 400)
    assert (error["param"], error["code"]) == (param, code)
    assert not core.requests


async def test_broken_chunks(core: FakeCore, start: StartFacade) -> None:
    """A body that breaks HTTP's framing does not reach the core; the parser drops it, so it counts as too slow."""
    facade = await start(config(body_grace_s=0.3, linger_timeout_s=0.1))
    head = f"POST {CHAT} HTTP/1.1\nhost: x\nauthorization: Bearer {KEY}\ntransfer-encoding: chunked\n\n"
    answer = await raw(facade, head, b"zz\r\nhello\r\n", pause_s=0.1)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"type":"invalid_request_error"' in answer
    assert not core.requests
