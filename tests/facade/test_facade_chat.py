"""Chat completions over HTTP: whole answers, streams, and what reaches the core."""

import asyncio
import json
from contextlib import suppress
from typing import Any

import grpc
import pytest
from aiohttp import ClientSession
from fakes.facade_site import KEY, StartFacade, client_of, config
from fakes.fake_core import (
    FakeCore,
    FakeFailure,
    answer_of,
    chunk,
    first,
    hello_stream,
    last,
    more,
    usage_chunk,
)
from openai import APIError, AsyncOpenAI, AuthenticationError, NotFoundError, RateLimitError

from quillgate_facade.app import FacadeServer

CHAT = "/v1/chat/completions"
BODY: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
STREAM = {**BODY, "stream": True}


async def read_frames(http: ClientSession, body: dict[str, Any]) -> list[str]:
    """Asks for a stream and returns its frames."""
    async with http.post(CHAT, json=body) as answer:
        assert answer.status == 200
        text = await answer.text()
    assert text.endswith("\n\n")
    return text[:-2].split("\n\n")


@pytest.mark.parametrize("prefix", ["/v1", "/api/openai/v1"])
async def test_a_whole_answer(core: FakeCore, http: ClientSession, prefix: str) -> None:
    """The answer keeps the provider's own members and has the nulls that clients insist on."""
    core.script.answer = answer_of(remaining=41, counted=2)
    async with http.post(prefix + "/chat/completions", json=BODY) as answer:
        body = await answer.json()
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-quillgate-messages"] == "2"
    assert answer.headers["x-quillgate-messages-remaining"] == "41"
    assert body["choices"][0]["message"]["content"] == "Hello"
    assert body["choices"][0]["logprobs"] is None
    assert body["x_vendor"] == {"kept": True}


async def test_no_limit_no_remaining_header(core: FakeCore, http: ClientSession) -> None:
    """A workspace without an allowance is told nothing of what remains, on streams neither."""
    core.script.steps = hello_stream()
    for body in (BODY, STREAM):
        async with http.post(CHAT, json=body) as answer:
            await answer.read()
        assert answer.status == 200
        assert "x-quillgate-messages-remaining" not in answer.headers


async def test_what_reaches_the_core(core: FakeCore, http: ClientSession) -> None:
    """The core gets the key, the answer's request id, a deadline, and the body without loss."""
    async with http.post(CHAT, json={**BODY, "top_k": 5}) as answer:
        assert answer.status == 200
    (seen,) = core.metadata
    assert seen["authorization"] == f"Bearer {KEY}"
    assert seen["x-request-id"] == answer.headers["x-request-id"]
    assert 600 < core.deadlines_s[0] < 612
    completion = core.requests[0].completion
    assert completion.messages[0].content.text == "Hi"
    assert json.loads(completion.extra_json) == {"top_k": 5}


async def test_headers_of_every_answer(core: FakeCore, http: ClientSession) -> None:
    """Whole answers and streams carry the same identifying headers."""
    core.script.steps = hello_stream(remaining=7)
    for body in (BODY, STREAM):
        async with http.post(CHAT, json=body) as answer:
            await answer.read()
        assert answer.headers["x-request-id"].startswith("req_")
        assert len(answer.headers["x-request-id"]) == 36
        assert answer.headers["openai-version"] == "2020-10-01"
        assert int(answer.headers["openai-processing-ms"]) >= 0
        assert answer.headers["server"] == "quillgate"


async def test_a_stream(core: FakeCore, http: ClientSession) -> None:
    """Chunks come in order without a usage member, and `[DONE]` comes last."""
    core.script.steps = hello_stream()
    *frames, done = await read_frames(http, STREAM)
    assert done == "data: [DONE]"
    chunks = [json.loads(frame.removeprefix("data: ")) for frame in frames]
    assert [item["choices"][0]["delta"].get("content") for item in chunks] == ["Hel", "lo", None]
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert all("usage" not in item and "error" not in item for item in chunks)


async def test_stream_head(core: FakeCore, http: ClientSession) -> None:
    """The head keeps proxies from touching the stream, is never compressed and tells what remains."""
    core.script.steps = hello_stream(remaining=7)
    async with http.post(CHAT, json=STREAM, headers={"accept-encoding": "gzip, br"}) as answer:
        await answer.read()
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-accel-buffering"] == "no"
    assert "content-encoding" not in answer.headers
    assert answer.headers["x-quillgate-messages-remaining"] == "7"


async def test_usage_is_null_until_the_usage_chunk(core: FakeCore, http: ClientSession) -> None:
    """With include_usage every chunk has the member, and only the last one a value."""
    core.script.steps = [first(chunk("a")), more(chunk(finish="stop")), last(usage_chunk())]
    *frames, _ = await read_frames(http, {**STREAM, "stream_options": {"include_usage": True}})
    usages = [json.loads(frame.removeprefix("data: "))["usage"] for frame in frames]
    assert usages == [None, None, {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}]


async def test_chunks_of_a_message_are_written_together(core: FakeCore, http: ClientSession) -> None:
    """What the core sends as one message arrives as one HTTP chunk."""
    core.script.steps = [first(), 0.05, more(*[chunk(str(number)) for number in range(50)]), 0.05, last()]
    async with http.post(CHAT, json=STREAM) as answer:
        pieces = [piece async for piece, _ in answer.content.iter_chunks()]
    assert [piece.count(b"data: ") for piece in pieces if piece] == [50, 1]


async def test_a_refusal_before_the_first_chunk_has_its_own_status(core: FakeCore, http: ClientSession) -> None:
    """The head waits for the core's first message, so a refused stream is not a 200."""
    core.script.failure = FakeFailure(grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND", "No.", {"model": "m"})
    async with http.post(CHAT, json=STREAM) as answer:
        body = await answer.json()
    assert answer.status == 404
    assert body["error"]["code"] == "model_not_found"


async def test_an_error_after_the_head_is_a_frame(core: FakeCore, http: ClientSession) -> None:
    """A failing stream ends with one error frame and a closed connection, without `[DONE]`."""
    failure = FakeFailure(grpc.StatusCode.UNAVAILABLE, "PROVIDER_UNAVAILABLE", "The provider broke off.", {})
    core.script.steps = [first(chunk("Hel")), failure]
    frames = await read_frames(http, STREAM)
    assert len(frames) == 2
    assert json.loads(frames[1].removeprefix("data: ")) == {
        "error": {"message": "The provider broke off.", "type": "server_error", "param": None, "code": None}
    }


@pytest.mark.parametrize("steps", [[], [first(chunk("Hel"))]])
async def test_a_stream_without_a_receipt_is_not_complete(
    core: FakeCore, http: ClientSession, steps: list[Any]
) -> None:
    """A core that ends a stream cleanly but without a receipt does not make a clean end for the client."""
    core.script.steps = steps
    async with http.post(CHAT, json=STREAM) as answer:
        text = await answer.text()
    assert "[DONE]" not in text
    assert answer.headers["x-request-id"] in text
    assert answer.status == (200 if steps else 500)


async def test_a_chunk_that_cannot_be_written_ends_the_stream(core: FakeCore, http: ClientSession) -> None:
    """Broken raw JSON from the core becomes an error frame that shows nothing of it."""
    broken = chunk("a")
    broken.extra_json = b"{secret"
    core.script.steps = [first(chunk("Hel")), more(broken)]
    frames = await read_frames(http, STREAM)
    assert "server had an error" in frames[1]
    assert "secret" not in "".join(frames)


async def test_comments_in_silence(core: FakeCore, start: StartFacade) -> None:
    """A silent stream gets comments before and between its frames."""
    facade = await start(config(comment_interval_s=0.05))
    core.script.steps = [0.2, first(chunk("Hel")), 0.3, last(chunk(finish="stop"))]
    async with client_of(facade) as http:
        frames = await read_frames(http, STREAM)
    first_frame = next(index for index, frame in enumerate(frames) if frame.startswith("data: "))
    assert frames[:first_frame].count(": keep-alive") >= 1
    assert frames[first_frame:].count(": keep-alive") >= 2
    assert frames[-1] == "data: [DONE]"


@pytest.mark.parametrize("body", [BODY, STREAM])
async def test_hanging_up_before_the_first_byte_cancels_the_call(
    core: FakeCore, facade: FacadeServer, body: dict[str, Any]
) -> None:
    """A client that leaves while the model thinks cancels the call to the core."""
    core.script.hang = True
    async with client_of(facade) as http:
        pending = asyncio.ensure_future(http.post(CHAT, json=body))
        await core.started.wait()
        pending.cancel()
        await asyncio.wait([pending])
        await asyncio.wait_for(core.cancelled.wait(), 5)


async def test_hanging_up_in_the_stream_cancels_the_call(core: FakeCore, facade: FacadeServer) -> None:
    """A client that leaves in the middle cancels the call, although no chunk is under way."""
    core.script.steps = [first(chunk("Hel")), 60.0]
    async with client_of(facade) as http, http.post(CHAT, json=STREAM) as answer:
        await answer.content.readany()
        answer.close()
        await asyncio.wait_for(core.cancelled.wait(), 5)


async def test_hanging_up_while_chunks_flow_cancels_the_call(core: FakeCore, facade: FacadeServer) -> None:
    """A client that leaves under full load cancels the call as well."""
    core.script.endless = first(chunk("x" * 1000))
    async with client_of(facade) as http, http.post(CHAT, json=STREAM) as answer:
        await answer.content.readany()
        answer.close()
        await asyncio.wait_for(core.cancelled.wait(), 5)


async def test_a_client_that_stops_reading_is_cut(core: FakeCore, start: StartFacade) -> None:
    """A stalled reader is disconnected after the stall limit and its call is cancelled."""
    facade = await start(config(write_stall_timeout_s=0.3))
    core.script.endless = first(chunk("x" * 100_000))
    reader, writer = await asyncio.open_connection("127.0.0.1", facade.port, limit=1024)
    body = json.dumps(STREAM).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await asyncio.wait_for(core.cancelled.wait(), 20)
    with suppress(ConnectionError):
        while piece := await reader.read(65536):
            assert b"[DONE]" not in piece
    writer.close()


async def test_openai_client_whole_answer(openai: AsyncOpenAI) -> None:
    """The official client reads the answer and the request id."""
    answer = await openai.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hi"}])
    assert answer.choices[0].message.content == "Hello"
    assert answer.usage is not None
    assert answer.usage.total_tokens == 15
    assert str(answer._request_id).startswith("req_")


async def test_openai_client_stream(core: FakeCore, openai: AsyncOpenAI) -> None:
    """The official client reads the stream to its end."""
    core.script.steps = hello_stream()
    stream = await openai.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hi"}], stream=True)
    assert "".join([item.choices[0].delta.content or "" async for item in stream]) == "Hello"


async def test_openai_client_error_in_the_stream(core: FakeCore, openai: AsyncOpenAI) -> None:
    """The official client raises what the error frame says."""
    core.script.steps = [first(chunk("a")), FakeFailure(grpc.StatusCode.DEADLINE_EXCEEDED, "PROVIDER_TIMEOUT", "Slow.")]
    stream = await openai.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hi"}], stream=True)
    with pytest.raises(APIError, match=r"Slow\.") as raised:
        async for _ in stream:
            pass
    assert raised.value.type == "server_error"


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (FakeFailure(grpc.StatusCode.UNAUTHENTICATED, "KEY_INVALID", "Bad."), AuthenticationError),
        (FakeFailure(grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND", "No.", {"model": "m"}), NotFoundError),
        (FakeFailure(grpc.StatusCode.RESOURCE_EXHAUSTED, "ALLOWANCE_EXHAUSTED", "Spent."), RateLimitError),
    ],
)
async def test_openai_client_errors(
    core: FakeCore, openai: AsyncOpenAI, failure: FakeFailure, expected: type[Exception]
) -> None:
    """The official client raises the class that fits, after exactly one request: none of these is retried."""
    core.script.failure = failure
    with pytest.raises(expected):
        await openai.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hi"}])
    assert len(core.requests) == 1
