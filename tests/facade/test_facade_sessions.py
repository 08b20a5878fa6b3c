"""What clients say of their conversation reaches the core, and who answered reaches them."""

import pytest
from aiohttp import ClientSession
from fakes.fake_core import FakeCore, answer_of, chunk, first, hello_stream, last
from multidict import CIMultiDict, CIMultiDictProxy

from quillgate_facade.session import HEADERS, session_of

BODY = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
UPSTREAM = "openrouter/google/gemini-2.5-flash"


def session(*headers: tuple[str, str]) -> str:
    """What is read of some headers."""
    return session_of(CIMultiDictProxy(CIMultiDict(headers)))


@pytest.mark.parametrize("header", HEADERS)
def test_every_client_s_header_is_read(header: str) -> None:
    """Whatever the case that it is sent in."""
    assert session((header.title(), "chat-7")) == "chat-7"


def test_first_header_that_can_be_used_counts() -> None:
    """What is no name is passed over: a hint is no reason to refuse a request."""
    assert session() == ""
    assert session(("session_id", "c"), ("session-id", "b"), ("x-session-id", "a")) == "a"
    for wrong in ("", "two words", "é", "x" * 257):
        assert session(("x-session-id", wrong)) == ""
        assert session(("x-session-id", wrong), ("x-session-affinity", "b")) == "b"


@pytest.mark.parametrize("stream", [False, True])
async def test_session_reaches_the_core(core: FakeCore, http: ClientSession, stream: bool) -> None:
    """As metadata, and only if there is one."""
    core.script.steps = hello_stream()
    for headers in ({"x-session-affinity": "chat-7"}, {"x-session-id": "two words"}):
        async with http.post("/v1/chat/completions", json={**BODY, "stream": stream}, headers=headers) as answer:
            assert answer.status == 200
            await answer.read()
    assert core.metadata[0]["x-session-id"] == "chat-7"
    assert "x-session-id" not in core.metadata[1]


@pytest.mark.parametrize("stream", [False, True])
async def test_who_answered_is_in_the_head(core: FakeCore, http: ClientSession, stream: bool) -> None:
    """Of whole answers and of streams; where the core does not say, there is no such header."""
    core.script.answer = answer_of()
    core.script.answer.upstream = UPSTREAM
    opening = first(chunk("Hi"))
    opening.upstream = UPSTREAM
    core.script.steps = [opening, last(chunk(finish="stop"))]
    async with http.post("/v1/chat/completions", json={**BODY, "stream": stream}) as answer:
        await answer.read()
    assert answer.headers["x-quillgate-upstream"] == UPSTREAM
    core.script.answer, core.script.steps = answer_of(), hello_stream()
    async with http.post("/v1/chat/completions", json={**BODY, "stream": stream}) as answer:
        await answer.read()
    assert "x-quillgate-upstream" not in answer.headers
