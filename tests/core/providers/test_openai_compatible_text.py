"""The OpenAI-compatible provider's own text completions: what is sent, what is read, and the same faults as in chat."""

import asyncio
import json
from contextlib import aclosing
from typing import Any

import pytest
from fakes.provider_site import ProviderSite
from fakes.scripted_upstream import (
    DONE,
    ScriptedAnswer,
    Step,
    bytes_answer,
    json_answer,
    sse_answer,
    sse_event,
)
from fakes.text_answers import text_answer, text_stream, text_value

from quillgate.v1.text_completion_pb2 import TextCompletion, TextCompletionRequest
from quillgate_codec import provider_text_completion, text_completion_request
from quillgate_core.errors import InvalidRequest, Overloaded, ProviderRejected, ProviderTimeout, ProviderUnavailable
from quillgate_core.providers.http_pool import HttpPool
from quillgate_core.providers.openai_compatible import OpenAICompatible
from quillgate_core.providers.provider_limits import ProviderLimits

REQUEST = text_completion_request.from_value({"model": "public", "prompt": "hi"})
SHORT = ProviderLimits(connect_s=0.3, first_byte_s=0.3, stall_s=0.3, total_s=100.0, error_body_s=0.3)


async def _create(site: ProviderSite, limits: ProviderLimits | None = None) -> TextCompletion:
    provider = site.provider(limits)
    return await provider.create_text(provider.prepare_text(REQUEST, model="m", stream=False, max_output_tokens=None))


async def _stream(
    site: ProviderSite, limits: ProviderLimits | None = None, into: list[TextCompletion] | None = None
) -> list[TextCompletion]:
    pieces = [] if into is None else into
    provider = site.provider(limits)
    prepared = provider.prepare_text(REQUEST, model="m", stream=True, max_output_tokens=None)
    async for together in provider.stream_text(prepared):
        assert together
        pieces += together
    return pieces


def _prepared(members: dict[str, Any], *, stream: bool = False, max_output_tokens: int | None = None) -> Any:
    request = text_completion_request.from_value({"model": "public", "prompt": "hi", **members})
    before = request.SerializeToString(deterministic=True)
    provider = OpenAICompatible(name="fake", base_url="http://127.0.0.1", pool=HttpPool())
    prepared = provider.prepare_text(request, model="m", stream=stream, max_output_tokens=max_output_tokens)
    assert request.SerializeToString(deterministic=True) == before
    assert prepared.stream is stream
    return json.loads(prepared.body)


def test_the_request_goes_through_unchanged_but_for_model_and_stream() -> None:
    """Every member that the client sent reaches the provider, known or not, null or empty."""
    members: dict[str, Any] = {
        "prompt": [[1, 2], [3]],
        "suffix": None,
        "best_of": 3,
        "logprobs": 0,
        "stop": [],
        "logit_bias": {},
        "top_k": 5,
        "temperature": 0.2,
    }
    assert _prepared(members) == {"model": "m", "stream": False, **members}


def test_a_stream_always_asks_for_usage() -> None:
    """Usage is asked for whatever the client said; without a stream the options go."""
    value = _prepared({"stream_options": {"include_usage": False, "new_option": 1}}, stream=True)
    assert (value["stream"], value["stream_options"]) == (True, {"include_usage": True, "new_option": 1})
    assert "stream_options" not in _prepared({"stream_options": {"include_usage": True}})


@pytest.mark.parametrize("members", [{}, {"max_tokens": 100}, {"max_tokens": None}])
def test_the_output_limit_replaces_the_clients(members: dict[str, Any]) -> None:
    """A given limit overrides the client's; without one the client's stays as it is, or absent."""
    assert _prepared(members, max_output_tokens=7)["max_tokens"] == 7
    assert _prepared(members) == {"model": "m", "prompt": "hi", "stream": False, **members}


def test_raw_members_that_are_no_json_are_an_invalid_request() -> None:
    """A gRPC caller can put anything into raw bytes; that is refused before dispatch, with the place."""
    provider = OpenAICompatible(name="fake", base_url="http://127.0.0.1", pool=HttpPool())
    with pytest.raises(InvalidRequest) as caught:
        provider.prepare_text(TextCompletionRequest(extra_json=b"[]"), model="m", stream=False, max_output_tokens=None)
    assert caught.value.metadata == {"param": "extra_json", "code": "invalid_value"}


async def test_a_whole_answer_is_read_without_loss(site: ProviderSite) -> None:
    """It is posted to `/completions` with our key, and what comes back is kept as it is."""
    site.upstream.script(text_answer("a", "b", extra={"provider": "X"}))
    answer = provider_text_completion.to_value(await _create(site))
    assert answer["provider"] == "X"
    assert [choice["text"] for choice in answer["choices"]] == ["a", "b"]
    asked = site.upstream.requests[0]
    assert (asked.method, asked.path) == ("POST", "/v1/completions")
    assert asked.headers["authorization"] == "Bearer house-key-42"


async def test_a_stream_is_read_in_order(site: ProviderSite) -> None:
    """Pieces come in order, the one with the usage last, and the connection is used again."""
    site.upstream.script(text_stream(["Hel", "lo"]))
    pieces = await _stream(site)
    assert [choice.text for piece in pieces for choice in piece.choices] == ["Hel", "lo", ""]
    assert pieces[-1].usage.prompt_tokens == 10


async def test_a_server_that_cannot_stream(site: ProviderSite) -> None:
    """A whole answer instead of a stream is one piece."""
    site.upstream.script(text_answer("all"))
    (piece,) = await _stream(site)
    assert (piece.choices[0].text, piece.usage.prompt_tokens) == ("all", 10)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (json_answer(400, {"error": {"message": "Too long.", "code": "context_length_exceeded"}}), ProviderRejected),
        (json_answer(401, {"error": {"message": "bad key"}}), ProviderUnavailable),
        (json_answer(429, {"error": {"message": "slow down"}}), Overloaded),
        (json_answer(500, {}), ProviderUnavailable),
        (json_answer(200, {"error": {"message": "no", "type": "invalid_request_error"}}), ProviderRejected),
        (json_answer(200, {"choices": []}), ProviderUnavailable),
        (bytes_answer(b"<html>", headers={"content-type": "text/html"}), ProviderUnavailable),
    ],
)
async def test_refusals(site: ProviderSite, stream: bool, answer: ScriptedAnswer, error: type[Exception]) -> None:
    """Every refusal is one of our errors, streamed or not."""
    site.upstream.script(answer)
    with pytest.raises(error):
        await (_stream(site) if stream else _create(site))


@pytest.mark.parametrize(
    ("steps", "error"),
    [
        ((b"data: {nonsense\n\n",), ProviderUnavailable),
        ((sse_event({"error": {"message": "boom"}}),), ProviderUnavailable),
        ((Step.RESET,), ProviderUnavailable),
        ((Step.HANG,), ProviderTimeout),
    ],
)
async def test_faults_in_a_stream_come_after_what_was_valid(
    site: ProviderSite, steps: tuple[Any, ...], error: type[Exception]
) -> None:
    """What was valid is passed on first."""
    site.upstream.script(sse_answer(sse_event(text_value(["a"], finish_reason=None)), 0.05, *steps))
    pieces: list[TextCompletion] = []
    with pytest.raises(error):
        async with asyncio.timeout(10):
            await _stream(site, SHORT, pieces)
    assert [piece.choices[0].text for piece in pieces] == ["a"]


async def test_closing_a_stream_closes_the_connection(site: ProviderSite) -> None:
    """The provider sees at once that nobody reads on."""
    site.upstream.script(sse_answer(sse_event(text_value(["a"])), Step.HANG, DONE))
    provider = site.provider()
    prepared = provider.prepare_text(REQUEST, model="m", stream=True, max_output_tokens=None)
    async with aclosing(provider.stream_text(prepared)) as pieces:
        await anext(pieces)
    async with asyncio.timeout(5):
        await site.upstream.requests[0].disconnected.wait()
