"""The OpenAI-compatible provider against a sane server: what is sent, what is read, and how connections are used."""

import asyncio
import json
from contextlib import aclosing
from typing import Any

import pytest
from fakes.provider_site import REQUEST, ProviderSite, text_of
from fakes.scripted_upstream import (
    DONE,
    BodyStep,
    Step,
    chat_answer,
    chat_chunk,
    chat_stream,
    json_answer,
    sse_answer,
)

from quillgate.v1.chat_completion_pb2 import ChatCompletionRequest
from quillgate_codec import chat_request, provider_chat_answer, provider_chat_chunk
from quillgate_core.errors import InvalidRequest
from quillgate_core.providers.http_pool import HttpPool
from quillgate_core.providers.openai_compatible import OpenAICompatible


def prepared_json(
    members: dict[str, Any], *, name: str = "fake", stream: bool = False, max_output_tokens: int | None = None
) -> dict[str, Any]:
    """The JSON that a provider sends for a request with these members."""
    request = chat_request.from_json(json.dumps({"model": "public", "messages": [], **members}).encode())
    before = request.SerializeToString(deterministic=True)
    provider = OpenAICompatible(name=name, base_url="http://127.0.0.1", pool=HttpPool())
    prepared = provider.prepare_chat(request, model="m", stream=stream, max_output_tokens=max_output_tokens)
    assert request.SerializeToString(deterministic=True) == before
    assert prepared.stream is stream
    value: dict[str, Any] = json.loads(prepared.body)
    return value


def test_the_request_goes_through_unchanged_but_for_model_and_stream() -> None:
    """What the client sent reaches the provider as it is, known or not, null or empty."""
    members: dict[str, Any] = {
        "temperature": 0.2,
        "top_k": 5,
        "stop": None,
        "tools": [],
        "metadata": {},
        "provider": {"order": ["a"]},
    }
    assert prepared_json(members) == {"model": "m", "messages": [], "stream": False, **members}


@pytest.mark.parametrize("options", [{}, {"stream_options": None}, {"stream_options": {"include_usage": False}}])
def test_a_stream_always_asks_for_usage(options: dict[str, Any]) -> None:
    """Usage is asked for whatever the client said, because streams are metered too."""
    value = prepared_json({"stream": True, **options}, stream=True)
    assert (value["stream"], value["stream_options"]) == (True, {"include_usage": True})


def test_other_stream_options_are_kept() -> None:
    """Stream options besides the usage are the client's own."""
    options = {"include_obfuscation": False, "new_option": 1}
    value = prepared_json({"stream_options": options}, stream=True)
    assert value["stream_options"] == {**options, "include_usage": True}


def test_a_unary_request_has_no_stream_options() -> None:
    """Without a stream the options go, which servers refuse there, and `stream` is false in so many words."""
    value = prepared_json({"stream": True, "stream_options": {"include_usage": True}})
    assert value == {"model": "m", "messages": [], "stream": False}


@pytest.mark.parametrize(
    ("name", "members", "limits"),
    [
        ("fake", {}, {"max_tokens": 7}),
        ("openai", {}, {"max_completion_tokens": 7}),
        ("fake", {"max_completion_tokens": 100}, {"max_completion_tokens": 7}),
        ("openai", {"max_tokens": 100}, {"max_completion_tokens": 7}),
        ("mistral", {"max_completion_tokens": 100}, {"max_tokens": 7}),
        ("fake", {"max_tokens": 1, "max_completion_tokens": 2}, {"max_tokens": 7, "max_completion_tokens": 7}),
        ("fake", {"max_tokens": None}, {"max_tokens": 7}),
    ],
)
def test_the_output_limit_replaces_the_one_that_is_present(
    name: str, members: dict[str, Any], limits: dict[str, Any]
) -> None:
    """A given limit overrides the client's under the vendor's name for it, or the client's where that is not known."""
    assert prepared_json(members, name=name, max_output_tokens=7) == {
        "model": "m",
        "messages": [],
        "stream": False,
        **limits,
    }


def test_without_an_output_limit_the_clients_own_stays() -> None:
    """No given limit leaves the client's alone."""
    assert prepared_json({"max_tokens": 100})["max_tokens"] == 100


def test_raw_members_that_are_no_json_are_an_invalid_request() -> None:
    """A gRPC caller can put anything into raw bytes; that is refused before dispatch, with the place."""
    provider = OpenAICompatible(name="fake", base_url="http://127.0.0.1", pool=HttpPool())
    request = ChatCompletionRequest(extra_json=b"[]")
    with pytest.raises(InvalidRequest) as caught:
        provider.prepare_chat(request, model="m", stream=False, max_output_tokens=None)
    assert caught.value.metadata == {"param": "extra_json", "code": "invalid_value"}


@pytest.mark.parametrize(
    "base_url", ["ftp://host/v1", "host/v1", "http://", "http://user:pass@host/v1", "http://host/v1?key=1"]
)
def test_a_base_url_that_cannot_work_is_refused_at_once(base_url: str) -> None:
    """A base URL needs http(s) and a host and holds neither credentials nor a query."""
    with pytest.raises(ValueError, match="base URL"):
        OpenAICompatible(name="fake", base_url=base_url, pool=HttpPool())


async def test_sends_the_key_and_the_extra_headers(site: ProviderSite) -> None:
    """Every request carries the house key and the configured headers, and asks for no compression."""
    await site.create()
    (request,) = site.upstream.requests
    assert (request.method, request.path) == ("POST", "/v1/chat/completions")
    assert request.headers["Authorization"] == "Bearer house-key-42"
    assert request.headers["X-Title"] == "Quillgate"
    assert request.headers["Content-Type"] == "application/json"
    assert request.headers["Accept-Encoding"] == "identity"
    assert "Cookie" not in request.headers


async def test_without_a_key_no_authorization_is_sent(site: ProviderSite) -> None:
    """A local server without a key is not sent one."""
    provider = OpenAICompatible(name="local", base_url=site.upstream.base_url + "/", pool=site.pool)
    await provider.create_chat(provider.prepare_chat(REQUEST, model="m", stream=False, max_output_tokens=None))
    assert "Authorization" not in site.upstream.requests[0].headers
    assert site.upstream.requests[0].path == "/v1/chat/completions"


async def test_returns_the_answer_without_loss(site: ProviderSite) -> None:
    """A whole answer comes back as the provider wrote it, unknown members included."""
    answer = chat_answer("Hi", cached_tokens=4, extra={"provider": "Some", "usage_cost": 0.5})
    site.upstream.script(answer)
    assert isinstance(answer.steps[0], bytes)
    assert json.loads(provider_chat_answer.to_json(await site.create())) == json.loads(answer.steps[0])


async def test_streams_every_chunk_in_order_and_without_loss(site: ProviderSite) -> None:
    """A stream's chunks come in order, as the provider wrote them, comments and the end marker left out."""
    events = [
        chat_chunk({"content": "a"}),
        chat_chunk({"refusal": "b", "more": [1]}, extra=1),
        chat_chunk(None, usage={"cost": 1}),
    ]
    site.upstream.script(sse_answer(b": OPENROUTER PROCESSING\n\n", *events, DONE))
    chunks = await site.stream([])
    assert [json.loads(provider_chat_chunk.to_json(chunk)) for chunk in chunks] == [
        json.loads(event.removeprefix(b"data: ")) for event in events
    ]


async def test_chunks_are_yielded_as_soon_as_they_arrive(site: ProviderSite) -> None:
    """A chunk is handed on while the provider is still thinking about the next."""
    gate = asyncio.Event()
    site.upstream.script(sse_answer(chat_chunk({"content": "a"}), chat_chunk({"content": "b"}), gate, DONE))
    provider = site.provider()
    prepared = provider.prepare_chat(REQUEST, model="m", stream=True, max_output_tokens=None)
    seen = []
    async with asyncio.timeout(10):
        async for chunks in provider.stream_chat(prepared):
            seen += chunks
            if len(seen) == 2:
                gate.set()
    assert text_of(seen) == "ab"


async def test_characters_may_be_cut_by_the_network(site: ProviderSite) -> None:
    """A character whose bytes arrive apart is whole in the chunk."""
    event = chat_chunk({"content": "é😀"})
    site.upstream.script(sse_answer(*[piece for byte in event for piece in (bytes([byte]), 0.0)], DONE))
    assert await site.text() == "é😀"


@pytest.mark.parametrize("done", [True, False])
async def test_a_stream_ends_with_or_without_the_done_marker(site: ProviderSite, done: bool) -> None:
    """A provider that closes without `[DONE]` has ended its stream; judging it is not the provider's task."""
    site.upstream.script(chat_stream(["a", "b"], done=done))
    assert await site.text() == "ab"


async def test_what_comes_after_the_done_marker_is_ignored(site: ProviderSite) -> None:
    """Nothing after `[DONE]` belongs to the stream."""
    site.upstream.script(sse_answer(chat_chunk({"content": "a"}), DONE + chat_chunk({"content": "b"})))
    assert await site.text() == "a"


async def test_an_empty_error_member_is_left_out(site: ProviderSite) -> None:
    """`"error": null` in a chunk is no error, and is not passed on: some clients abort on the mere member."""
    site.upstream.script(sse_answer(chat_chunk({"content": "a"}, error=None), DONE))
    chunks = await site.stream([])
    assert "error" not in json.loads(provider_chat_chunk.to_json(chunks[0]))


async def test_a_whole_answer_to_a_stream_request_becomes_a_chunk(site: ProviderSite) -> None:
    """A server that cannot stream still serves stream requests: one chunk says all, tool calls with their index."""
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    message = {"role": "assistant", "content": "Hi", "tool_calls": [call]}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
    usage = {"prompt_tokens": 10, "completion_tokens": 5}
    site.upstream.script(json_answer(200, {"object": "chat.completion", "choices": [choice], "usage": usage}))
    (chunk,) = await site.stream([])
    assert json.loads(provider_chat_chunk.to_json(chunk)) == {
        "object": "chat.completion.chunk",
        "choices": [
            {"index": 0, "delta": {**message, "tool_calls": [{"index": 0, **call}]}, "finish_reason": "tool_calls"}
        ],
        "usage": usage,
    }


@pytest.mark.parametrize("end", [[], [0.05]])
async def test_connections_are_reused(site: ProviderSite, end: list[BodyStep]) -> None:
    """Answers and streams that end leave their connection, also when the end comes a little after `[DONE]`."""
    provider = site.provider()
    for stream in (False, True, False, True):
        prepared = provider.prepare_chat(REQUEST, model="m", stream=stream, max_output_tokens=None)
        if stream:
            site.upstream.script(sse_answer(chat_chunk({"content": "a"}), DONE, *end))
            assert text_of([chunk async for chunks in provider.stream_chat(prepared) for chunk in chunks]) == "a"
            async with asyncio.timeout(10):
                await site.upstream.requests[-1].finished.wait()
            await asyncio.sleep(0.2)  # for the end of the body
        else:
            await provider.create_chat(prepared)
    assert (len(site.upstream.requests), site.upstream.connections) == (4, 1)


async def test_a_stream_that_goes_on_after_done_is_closed(site: ProviderSite) -> None:
    """A provider that does not end its response after `[DONE]` loses the connection; the caller does not wait."""
    site.upstream.script(sse_answer(chat_chunk({"content": "a"}), DONE, Step.HANG))
    async with asyncio.timeout(10):
        assert await site.text() == "a"
        await site.upstream.requests[0].disconnected.wait()


async def test_closing_the_provider_ends_a_drain(site: ProviderSite) -> None:
    """Closing the provider right after a stream leaves neither a task nor a connection behind."""
    site.upstream.script(sse_answer(chat_chunk({"content": "a"}), DONE, Step.HANG))
    await site.text()
    await site.pool.close()
    async with asyncio.timeout(10):
        await site.upstream.requests[0].disconnected.wait()


@pytest.mark.parametrize("chunks_read", [1, 2, 3])
async def test_closing_the_iterator_closes_the_connection(site: ProviderSite, chunks_read: int) -> None:
    """A consumer that stops listening at any chunk hangs up on the provider within a second."""
    site.upstream.script(chat_stream(["w"] * 50, between=0.02))
    provider = site.provider()
    prepared = provider.prepare_chat(REQUEST, model="m", stream=True, max_output_tokens=None)
    async with aclosing(provider.stream_chat(prepared)) as stream:
        for _ in range(chunks_read):
            await anext(stream)
    async with asyncio.timeout(1):
        await site.upstream.requests[0].disconnected.wait()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("step", ["before headers", "in the body"])
async def test_cancelling_closes_the_connection(site: ProviderSite, stream: bool, step: str) -> None:
    """A cancelled call hangs up on the provider within a second and stays cancelled."""
    headers = {"content-type": "text/event-stream" if stream else "application/json"}
    answer = sse_answer(b": waiting\n\n", Step.HANG)
    hanging = type(answer)(200, headers, answer.steps, [Step.HANG] if step == "before headers" else [])
    site.upstream.script(hanging)
    task = asyncio.create_task(site.stream([]) if stream else site.create())
    request = await site.upstream.wait_for_requests()
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(1):
        await request.disconnected.wait()
