"""A provider that speaks the Responses API: what is sent, what comes back, and every way to fail."""

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from fakes.scripted_upstream import DONE, ScriptedUpstream, Step, json_answer, sse_answer, sse_event

from quillgate.v1.response_pb2 import ResponseEvent
from quillgate_codec import provider_response_event, response_item, response_request
from quillgate_core.errors import Overloaded, ProviderRejected, ProviderUnavailable, QuillgateError
from quillgate_core.providers.http_pool import HttpPool
from quillgate_core.providers.openai_compatible import OpenAICompatible
from quillgate_core.upstream import PreparedResponse

ITEMS: list[dict[str, Any]] = [
    {"type": "message", "role": "user", "content": "one"},
    {"type": "reasoning", "id": "rs_1", "summary": []},
    {"type": "reasoning", "id": "rs_2", "summary": [], "encrypted_content": "gAAA"},
    {"type": "web_search_call", "id": "ws_1", "action": {"type": "search"}},
]
OUTPUT = [{"type": "message", "id": "msg_1", "role": "assistant", "content": [], "status": "completed"}]
WHOLE = {"id": "resp_1", "object": "response", "status": "completed", "error": None, "output": OUTPUT}


@pytest_asyncio.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    """The provider's server."""
    async with ScriptedUpstream() as server:
        yield server


@pytest_asyncio.fixture
async def provider(upstream: ScriptedUpstream) -> AsyncIterator[OpenAICompatible]:
    """The adapter, pointed at it."""
    pool = HttpPool()
    made = OpenAICompatible(name="p", base_url=upstream.base_url, pool=pool)
    yield made
    await pool.close()


def _prepared(provider: OpenAICompatible, *, stream: bool = False, limit: int | None = None) -> PreparedResponse:
    value = {
        "model": "a/m",
        "input": "new",
        "previous_response_id": "resp_0",
        "store": True,
        "stream": True,
        "metadata": {"a": "b"},
        "client_metadata": {"c": "d"},
        "tools": [{"type": "web_search"}],
        "top_k": 5,
    }
    request = response_request.from_json(msgspec.json.encode(value))
    items = [response_item.from_value(item) for item in ITEMS]
    return provider.prepare_response(request, items, model="up-m", stream=stream, max_output_tokens=limit)


async def _read(provider: OpenAICompatible) -> list[ResponseEvent]:
    return [event async for events in provider.stream_response(_prepared(provider, stream=True)) for event in events]


async def test_request_is_sent_whole(provider: OpenAICompatible, upstream: ScriptedUpstream) -> None:
    """The conversation stands for the input, nothing is stored there, and hosted tools and unknown members pass."""
    upstream.script(json_answer(200, WHOLE))
    answer = await provider.create_response(_prepared(provider, limit=300))
    assert (answer.id, answer.output[0].id) == ("resp_1", "msg_1")
    (asked,) = upstream.requests
    assert asked.path == "/v1/responses"
    assert asked.json == {
        "model": "up-m",
        "input": [ITEMS[0], ITEMS[2], ITEMS[3]],
        "store": False,
        "stream": False,
        "max_output_tokens": 300,
        "metadata": {"a": "b"},
        "client_metadata": {"c": "d"},
        "tools": [{"type": "web_search"}],
        "top_k": 5,
    }


async def test_response_without_output_is_an_answer(provider: OpenAICompatible, upstream: ScriptedUpstream) -> None:
    """A response that ended before it said anything is passed on, with its reason."""
    ended = {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}, "output": []}
    upstream.script(json_answer(200, {**WHOLE, **ended}))
    answer = await provider.create_response(_prepared(provider))
    assert (answer.status, answer.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert list(answer.output) == []


@pytest.mark.parametrize("end", [b"", DONE], ids=["closed", "done"])
async def test_events_pass_as_they_are(provider: OpenAICompatible, upstream: ScriptedUpstream, end: bytes) -> None:
    """Known or not; the stream may end with the connection."""
    events: list[dict[str, Any]] = [
        {"type": "response.new", "x": [1]},
        {"type": "response.completed", "response": WHOLE},
    ]
    steps = [b"event: " + event["type"].encode() + b"\n" + sse_event(event) for event in events]
    upstream.script(sse_answer(*steps, *([end] if end else [])))
    found = await _read(provider)
    assert [provider_response_event.to_value(event) for event in found] == events


async def test_server_that_cannot_stream(provider: OpenAICompatible, upstream: ScriptedUpstream) -> None:
    """Its whole answer is the event that ends a stream."""
    upstream.script(json_answer(200, WHOLE))
    (event,) = await _read(provider)
    assert (event.type, event.response.id) == ("response.completed", "resp_1")


REJECTED = {"code": "context_length_exceeded", "message": "too long", "param": "input"}
SPENT = {"code": "rate_limit_exceeded", "message": "slow down"}
BROKEN = {"code": "server_error", "message": "sorry"}


@pytest.mark.parametrize(
    ("event", "error"),
    [
        ({"type": "error", **REJECTED}, ProviderRejected),
        ({"type": "error", "error": REJECTED}, ProviderRejected),
        ({"type": "response.failed", "response": {"status": "failed", "error": REJECTED}}, ProviderRejected),
        ({"type": "response.failed", "response": {"error": SPENT}}, Overloaded),
        ({"type": "response.failed", "response": {"error": BROKEN}}, ProviderUnavailable),
        ({"type": "response.failed", "response": {}}, ProviderUnavailable),
        ({"type": "response.failed"}, ProviderUnavailable),
        ({"type": "error"}, ProviderUnavailable),
    ],
)
async def test_failures_in_the_stream(
    provider: OpenAICompatible, upstream: ScriptedUpstream, event: dict[str, Any], error: type[QuillgateError]
) -> None:
    """Each way to say that it went wrong is raised, after what came before it."""
    upstream.script(sse_answer(sse_event({"type": "response.created", "response": {}}), sse_event(event)))
    found = provider.stream_response(_prepared(provider, stream=True))
    assert [each.type for each in await anext(found)] == ["response.created"]
    with pytest.raises(error):
        await anext(found)


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ({**WHOLE, "status": "failed", "error": BROKEN}, ProviderUnavailable),
        ({**WHOLE, "status": "failed"}, ProviderUnavailable),
        ({**WHOLE, "status": "in_progress"}, ProviderUnavailable),
        ({"id": "x"}, ProviderUnavailable),
        ({"error": REJECTED}, ProviderRejected),
    ],
)
async def test_whole_answer_that_is_none(
    provider: OpenAICompatible, upstream: ScriptedUpstream, value: dict[str, Any], error: type[QuillgateError]
) -> None:
    """A failure inside a 200 is a failure."""
    upstream.script(json_answer(200, value))
    with pytest.raises(error):
        await provider.create_response(_prepared(provider))


@pytest.mark.parametrize("stream", [False, True])
async def test_refusal_by_status(provider: OpenAICompatible, upstream: ScriptedUpstream, stream: bool) -> None:
    """A status that is no success is read as for chat."""
    upstream.script(json_answer(400, {"error": REJECTED}))
    with pytest.raises(ProviderRejected) as caught:
        await (_read(provider) if stream else provider.create_response(_prepared(provider)))
    assert caught.value.metadata["code"] == "context_length_exceeded"


async def test_connection_that_breaks(provider: OpenAICompatible, upstream: ScriptedUpstream) -> None:
    """A reset in the middle is the provider's failure."""
    upstream.script(sse_answer(sse_event({"type": "response.created", "response": {}}), Step.RESET))
    with pytest.raises(ProviderUnavailable):
        await _read(provider)
