"""Text completions over HTTP: whole answers, streams, and what reaches the core."""

import json
from typing import Any, cast

import grpc
import pytest
from aiohttp import ClientSession
from fakes.facade_site import KEY, StartFacade, client_of, config
from fakes.fake_core import FakeCore, FakeFailure
from fakes.fake_text_provider import USAGE, piece, whole

from quillgate.v1.completion_service_pb2 import CreateTextCompletionResponse, StreamTextCompletionResponse
from quillgate.v1.metering_service_pb2 import Receipt, Reservation

PATH = "/v1/completions"
BODY: dict[str, Any] = {"model": "m", "prompt": ["Hi"], "seed": None}
STREAM = {**BODY, "stream": True}


def _script(core: FakeCore, *steps: Any) -> None:
    """Makes the core stream these."""
    core.script.steps = cast("Any", steps)


def _first(*texts: str) -> StreamTextCompletionResponse:
    pieces = [piece(text) for text in texts]
    return StreamTextCompletionResponse(pieces=pieces, reservation=Reservation(remaining_messages=7))


def _last(*pieces: Any) -> StreamTextCompletionResponse:
    return StreamTextCompletionResponse(pieces=pieces, receipt=Receipt(counted_messages=1))


@pytest.mark.parametrize("prefix", ["/v1", "/api/openai/v1"])
async def test_a_whole_answer(core: FakeCore, http: ClientSession, prefix: str) -> None:
    """The answer has the nulls that clients insist on, the provider's own members, and what was charged."""
    receipt = Receipt(counted_messages=2, remaining_messages=41)
    core.script.answer = cast("Any", CreateTextCompletionResponse(completion=whole("a", provider="X"), receipt=receipt))
    async with http.post(prefix + "/completions", json=BODY) as answer:
        body = await answer.json()
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    assert answer.headers["x-quillgate-messages"] == "2"
    assert answer.headers["x-quillgate-messages-remaining"] == "41"
    assert body["choices"] == [{"text": "a", "index": 0, "logprobs": None, "finish_reason": "stop"}]
    assert (body["provider"], body["usage"]) == ("X", USAGE)


async def test_what_reaches_the_core(core: FakeCore, http: ClientSession) -> None:
    """The core gets the key, the answer's request id, a deadline, and the body without loss."""
    core.script.answer = cast("Any", CreateTextCompletionResponse(completion=whole()))
    async with http.post(PATH, json={**BODY, "top_k": 5}) as answer:
        assert answer.status == 200
    (seen,) = core.metadata
    assert seen["authorization"] == f"Bearer {KEY}"
    assert seen["x-request-id"] == answer.headers["x-request-id"]
    assert 600 < core.deadlines_s[0] < 612
    completion = core.requests[0].completion
    assert [item.text for item in completion.prompt.list.items] == ["Hi"]
    assert json.loads(completion.extra_json) == {"seed": None, "top_k": 5}


@pytest.mark.parametrize("with_usage", [False, True])
async def test_a_stream(core: FakeCore, http: ClientSession, with_usage: bool) -> None:
    """Pieces come in order and `[DONE]` last; the usage member is there if and only if it was asked for."""
    _script(core, _first("Hel", "lo"), _last(*([piece(usage=USAGE)] if with_usage else [])))
    options = {"stream_options": {"include_usage": True}} if with_usage else {}
    async with http.post(PATH, json={**STREAM, **options}) as answer:
        text = await answer.text()
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["x-quillgate-messages-remaining"] == "7"
    *events, done, rest = text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    pieces = [json.loads(event.removeprefix("data: ")) for event in events]
    assert [choice["text"] for item in pieces for choice in item["choices"]] == ["Hel", "lo"]
    if with_usage:
        assert [item["usage"] for item in pieces] == [None, None, USAGE]
        assert pieces[-1]["choices"] == []
    else:
        assert all("usage" not in item for item in pieces)


@pytest.mark.parametrize("body", [BODY, STREAM])
async def test_a_refusal_has_its_status(core: FakeCore, http: ClientSession, body: dict[str, Any]) -> None:
    """What the core refuses before it answers is told by status and error object, streamed or not."""
    metadata = {"param": "prompt", "code": "unsupported_value"}
    core.script.failure = FakeFailure(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", "No.", metadata)
    async with http.post(PATH, json=body) as answer:
        error = (await answer.json())["error"]
    assert (answer.status, error) == (400, {"message": "No.", "type": "invalid_request_error", **metadata})


@pytest.mark.parametrize("end", [[FakeFailure(grpc.StatusCode.UNAVAILABLE, "PROVIDER_UNAVAILABLE")], []])
async def test_a_failure_after_the_head(core: FakeCore, http: ClientSession, end: list[Any]) -> None:
    """A failure, or an end without receipt, is one error frame and no `[DONE]`."""
    _script(core, _first("Hel"), *end)
    async with http.post(PATH, json=STREAM) as answer:
        text = await answer.text()
    assert answer.status == 200
    assert text.count('data: {"error":') == 1
    assert "[DONE]" not in text


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"prompt": 5}', b'{"prompt": ["a", true]}', b'{"n": "1"}'])
async def test_what_is_no_request(core: FakeCore, http: ClientSession, body: bytes) -> None:
    """Bodies of the wrong form are refused here, and the core is not asked."""
    async with http.post(PATH, data=body, headers={"content-type": "application/json"}) as answer:
        assert answer.status == 400
        assert (await answer.json())["error"]["type"] == "invalid_request_error"
    assert core.requests == []


async def test_comments_while_it_is_silent(core: FakeCore, start: StartFacade) -> None:
    """A stream whose model thinks for long is kept alive."""
    _script(core, _first("a"), 0.3, _last())
    server = await start(config(comment_interval_s=0.05))
    async with client_of(server) as http, http.post(PATH, json=STREAM) as answer:
        assert ": keep-alive\n\n" in await answer.text()
