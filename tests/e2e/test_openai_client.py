"""The official OpenAI client against the whole service: nothing but a base URL and a key."""

import openai
import pytest
from fakes.scripted_upstream import DEFAULT_TEXT, DONE, chat_chunk, json_answer, sse_answer
from openai_clients import Connect
from service import MODEL, RunningService

QUESTION = [{"role": "user", "content": "Hello!"}]
TOOL = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}


async def test_unary_answer(service: RunningService, connect: Connect) -> None:
    """A question gets the provider's answer under the model's own name, with usage and request id."""
    answer = await connect().chat.completions.create(model=MODEL, messages=QUESTION)
    assert answer.choices[0].message.content == DEFAULT_TEXT
    assert answer.model == MODEL
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (10, 5)
    assert answer._request_id.startswith("req_")


async def test_answer_tells_what_it_cost(service: RunningService, connect: Connect) -> None:
    """A unary answer carries the messages it counted and those that are left of the day's allowance."""
    tenant = await service.tenant(allowance=10)
    raw = await connect(tenant.key).chat.completions.with_raw_response.create(model=MODEL, messages=QUESTION)
    assert raw.headers["x-quillgate-messages"] == "1"
    assert raw.headers["x-quillgate-messages-remaining"] == "9"
    assert raw.headers["x-ratelimit-limit-requests"] == "10"
    assert raw.headers["x-ratelimit-remaining-requests"] == "9"
    assert raw.headers["x-ratelimit-reset-requests"].endswith("s")


async def test_stream_without_usage(service: RunningService, connect: Connect) -> None:
    """A stream gives the text in order, ends with a finish_reason, and hides the usage nobody asked for."""
    stream = await connect().chat.completions.create(model=MODEL, messages=QUESTION, stream=True)
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == DEFAULT_TEXT
    assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == "stop"
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)
    assert {(chunk.id, chunk.model, chunk.object) for chunk in chunks} == {
        ("chatcmpl-upstream", MODEL, "chat.completion.chunk")
    }


async def test_stream_with_usage(service: RunningService, connect: Connect) -> None:
    """With include_usage one last chunk without choices carries the usage."""
    stream = await connect().chat.completions.create(
        model=MODEL, messages=QUESTION, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert [chunk.usage is None for chunk in chunks] == [True] * (len(chunks) - 1) + [False]
    assert chunks[-1].choices == []
    assert chunks[-1].usage.total_tokens == 15


async def test_tools_round_trip(service: RunningService, connect: Connect) -> None:
    """A tool call comes back typed, and its result goes to the provider unchanged."""
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Bern"}'}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    service.upstream.script(
        json_answer(200, {"id": "x", "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]})
    )
    answer = await connect().chat.completions.create(model=MODEL, messages=QUESTION, tools=[TOOL])
    made = answer.choices[0].message.tool_calls[0]
    assert (made.id, made.function.name, made.function.arguments) == ("call_1", "weather", '{"city":"Bern"}')

    history = [*QUESTION, answer.choices[0].message, {"role": "tool", "tool_call_id": "call_1", "content": "sunny"}]
    await connect().chat.completions.create(model=MODEL, messages=history, tools=[TOOL])
    sent = service.upstream.requests[-1].json
    assert sent["tools"] == [TOOL]
    assert sent["messages"][1]["tool_calls"] == [call]
    assert sent["messages"][2] == {"role": "tool", "tool_call_id": "call_1", "content": "sunny"}


async def test_streamed_tool_calls(service: RunningService, connect: Connect) -> None:
    """Two parallel tool calls arrive in pieces under their own indexes."""
    pieces = [
        [{"index": 0, "id": "call_a", "type": "function", "function": {"name": "f", "arguments": ""}}],
        [{"index": 0, "function": {"arguments": '{"a":1}'}}],
        [{"index": 1, "id": "call_b", "type": "function", "function": {"name": "g", "arguments": "{}"}}],
    ]
    events = [chat_chunk({"role": "assistant", "content": None, "tool_calls": pieces[0]})]
    events += [chat_chunk({"tool_calls": piece}) for piece in pieces[1:]]
    service.upstream.script(sse_answer(*events, chat_chunk({}, finish_reason="tool_calls"), DONE))
    async with connect().chat.completions.stream(model=MODEL, messages=QUESTION, tools=[TOOL]) as stream:
        final = await stream.get_final_completion()
    calls = final.choices[0].message.tool_calls
    assert [(call.id, call.function.name, call.function.arguments) for call in calls] == [
        ("call_a", "f", '{"a":1}'),
        ("call_b", "g", "{}"),
    ]


async def test_unknown_members_survive(service: RunningService, connect: Connect) -> None:
    """What the contract does not know goes to the provider and comes back."""
    service.upstream.script(
        json_answer(
            200,
            {
                "id": "x",
                "choices": [
                    {"index": 0, "message": {"role": "assistant", "content": "a", "vendor": {"n": 1}}, "odd": [1]}
                ],
                "provider": "Somebody",
            },
        )
    )
    answer = await connect().chat.completions.create(
        model=MODEL, messages=QUESTION, extra_body={"top_k": 40, "provider": {"order": ["a", "b"], "n": 1}}
    )
    sent = service.upstream.requests[-1].json
    assert (sent["top_k"], sent["provider"]) == (40, {"order": ["a", "b"], "n": 1})
    assert answer.provider == "Somebody"
    assert answer.choices[0].odd == [1]
    assert answer.choices[0].message.vendor == {"n": 1}


async def test_bad_key(service: RunningService, connect: Connect) -> None:
    """A wrong key raises AuthenticationError, without a word on why it is wrong."""
    with pytest.raises(openai.AuthenticationError) as caught:
        await connect("sk-wrong").chat.completions.create(model=MODEL, messages=QUESTION)
    assert caught.value.code == "invalid_api_key"
    assert caught.value.request_id.startswith("req_")


async def test_unknown_model(service: RunningService, connect: Connect) -> None:
    """An unknown model raises NotFoundError with OpenAI's code."""
    with pytest.raises(openai.NotFoundError) as caught:
        await connect().chat.completions.create(model="nobody/nothing", messages=QUESTION)
    assert caught.value.code == "model_not_found"


async def test_spent_allowance(service: RunningService, connect: Connect) -> None:
    """A spent allowance raises RateLimitError once, without retries: x-should-retry says that they cannot help."""
    tenant = await service.tenant(allowance=0)
    with pytest.raises(openai.RateLimitError) as caught:
        await connect(tenant.key).chat.completions.create(model=MODEL, messages=QUESTION)
    assert caught.value.code == "insufficient_quota"
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert int(caught.value.response.headers["retry-after"]) >= 1
    assert service.upstream.requests == []


async def test_provider_rejection(service: RunningService, connect: Connect) -> None:
    """A provider's 400 reaches the caller as a 400 with the provider's code and parameter."""
    error = {"message": "too long", "param": "messages", "code": "context_length_exceeded"}
    service.upstream.script(json_answer(400, {"error": {"type": "invalid_request_error", **error}}))
    with pytest.raises(openai.BadRequestError) as caught:
        await connect().chat.completions.create(model=MODEL, messages=QUESTION)
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "messages")


async def test_stream_cut_by_the_provider(service: RunningService, connect: Connect) -> None:
    """A stream that the provider cuts raises APIError after the text so far, and never ends cleanly."""
    service.upstream.script(sse_answer(chat_chunk({"role": "assistant", "content": "Hel"})))
    text = ""
    with pytest.raises(openai.APIError):
        async for chunk in await connect().chat.completions.create(model=MODEL, messages=QUESTION, stream=True):
            text += chunk.choices[0].delta.content or ""
    assert text == "Hel"


async def test_models(service: RunningService, connect: Connect) -> None:
    """Every listed model can be retrieved by its id, slash and all."""
    listed = [model async for model in connect().models.list()]
    assert MODEL in {model.id for model in listed}
    assert "quillgate/echo" in {model.id for model in listed}
    for model in listed:
        assert await connect().models.retrieve(model.id) == model


async def test_key_with_allowed_models(service: RunningService, connect: Connect) -> None:
    """A key that is limited to a model sees and uses only that one."""
    tenant = await service.tenant(allowed_models=["quillgate/echo"])
    limited = connect(tenant.key)
    assert [model.id async for model in limited.models.list()] == ["quillgate/echo"]
    with pytest.raises(openai.PermissionDeniedError):
        await limited.chat.completions.create(model=MODEL, messages=QUESTION)
    with pytest.raises(openai.NotFoundError):
        await limited.models.retrieve(MODEL)
    answer = await limited.chat.completions.create(model="quillgate/echo", messages=QUESTION)
    assert answer.choices[0].message.content == "Hello!"
