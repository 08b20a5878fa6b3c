"""Answers that the facade writes in one step are those that aiohttp would write, which still writes all others."""

import asyncio
import json

import pytest
from fakes.facade_site import KEY, StartFacade, config
from fakes.fake_core import FakeCore, answer_of

from quillgate_facade.app import FacadeServer

BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Hi"}]})
CHANGING = ("date", "x-request-id", "openai-processing-ms", "connection")

Answer = tuple[int, str, dict[str, str], bytes]


def request(first: str, *headers: str, body: str = "", key: str = KEY) -> bytes:
    """A request whose head is as a test says."""
    lines = (first, "host: x", f"authorization: Bearer {key}", f"content-length: {len(body)}", *headers)
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


async def read_answer(reader: asyncio.StreamReader, *, is_head: bool = False) -> Answer:
    """One answer: its status and reason, its headers but for those that change, and its body."""
    lines = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)).decode().split("\r\n")
    _, status, reason = lines[0].split(" ", 2)
    headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
    assert len(headers) == len(lines) - 3, "a header came twice"
    size = 0 if is_head else int(headers.get("content-length", 0))
    kept = {name: value for name, value in headers.items() if name not in CHANGING}
    return int(status), reason, kept, await reader.readexactly(size)


async def ask(facade: FacadeServer, *requests: bytes) -> list[Answer]:
    """The answers to requests that are sent together on one connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", facade.port)
    writer.write(b"".join(requests))
    answers = [await read_answer(reader, is_head=each.startswith(b"HEAD")) for each in requests]
    writer.close()
    return answers


@pytest.mark.parametrize(
    ("line", "body", "status"),
    [
        ("POST /v1/chat/completions", BODY, 200),
        ("POST /api/openai/v1/chat/completions?x=1", BODY, 200),
        ("POST /v1/chat/completions", "{", 400),
        ("POST /v1/nothing", BODY, 404),
        ("PUT /v1/chat/completions", BODY, 405),
        ("OPTIONS /v1/models", "", 204),
        ("GET /v1/models", "", 200),
        ("GET /healthz", "", 200),
    ],
    ids=range(8),
)
async def test_the_same_answer_whoever_writes_it(
    core: FakeCore, facade: FacadeServer, line: str, body: str, status: int
) -> None:
    """A connection that stays open gets what one that closes gets, and what a client of HTTP/1.0 gets."""
    core.script.answer = answer_of("Grüße", remaining=41)
    (kept,) = await ask(facade, request(f"{line} HTTP/1.1", body=body))
    (closed,) = await ask(facade, request(f"{line} HTTP/1.1", "connection: close", body=body))
    (old,) = await ask(facade, request(f"{line} HTTP/1.0", body=body))
    assert kept[0] == status
    assert kept == closed == old
    assert kept[2]["server"] == "quillgate"


@pytest.mark.parametrize("path", ["/healthz", "/v1/models"])
async def test_an_answer_to_head_has_no_body(facade: FacadeServer, path: str) -> None:
    """HEAD gets the head that GET gets, and nothing after it: the next answer follows at once."""
    asked, got = await ask(facade, request(f"HEAD {path} HTTP/1.1"), request(f"GET {path} HTTP/1.1"))
    assert asked[:2] == got[:2]
    assert asked[3] == b""
    assert got[3] != b""


async def test_many_on_one_connection(core: FakeCore, facade: FacadeServer) -> None:
    """Requests that are sent without waiting for answers get theirs in order, good ones and bad ones."""
    core.script.answer = answer_of()
    good = request("POST /v1/chat/completions HTTP/1.1", body=BODY)
    bad = request("POST /v1/chat/completions HTTP/1.1", body="{")
    assert [answer[0] for answer in await ask(facade, good, bad, good, good, bad)] == [200, 400, 200, 200, 400]


async def test_browsers_are_told_whom_they_may_show_it(core: FakeCore, start: StartFacade) -> None:
    """With origins set, the same answers say so."""
    core.script.answer = answer_of()
    facade = await start(config(cors_origins="https://app.example"))  # type: ignore[arg-type]
    ask_as = request("POST /v1/chat/completions HTTP/1.1", "origin: https://app.example", body=BODY)
    for _, _, headers, _ in await ask(facade, ask_as, ask_as):
        assert headers["access-control-allow-origin"] == "https://app.example"
        assert headers["vary"] == "origin"


async def test_a_header_never_ends_early(core: FakeCore, facade: FacadeServer) -> None:
    """What a core says of itself cannot add a line to the head: rather, the connection ends without an answer."""
    answer = answer_of()
    answer.upstream = "evil\r\nset-cookie: a=b"
    core.script.answer = answer
    reader, writer = await asyncio.open_connection("127.0.0.1", facade.port)
    writer.write(request("POST /v1/chat/completions HTTP/1.1", body=BODY))
    assert await asyncio.wait_for(reader.read(), 10) == b""
    writer.close()
