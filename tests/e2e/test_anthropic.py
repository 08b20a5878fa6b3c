"""The official OpenAI client against a model of Anthropic's: every endpoint, and a loop of tools with thoughts."""

import json

import pytest
from conformance.vendor import Call, Content
from conformance.vendor_anthropic import VENDOR
from fakes.scripted_upstream import ScriptedAnswer
from openai import BadRequestError
from openai_clients import Connect
from service import ANTHROPIC_MODEL, RunningService

QUESTION = [{"role": "user", "content": "What is the weather in Bern?"}]
TOOL = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}
CALLING = Content(
    words=["Let me look."],
    thought="Bern, then.",
    calls=[Call("toolu_1", "weather", '{"city": "Bern"}')],
    end="tool_calls",
)


def streamed(content: Content) -> ScriptedAnswer:
    """The content as Anthropic streams it."""
    return VENDOR.stream(VENDOR.frames(content))


async def test_a_loop_of_tools_keeps_its_thoughts(service: RunningService, connect: Connect) -> None:
    """A client that sends the assistant's message back as it got it gives Anthropic its signed thought again."""
    service.upstream.script(VENDOR.answer(CALLING), VENDOR.answer(Content(words=["Sunny."])))
    client = connect()
    asking = {"model": ANTHROPIC_MODEL, "tools": [TOOL], "reasoning_effort": "low"}
    first = await client.chat.completions.create(messages=QUESTION, **asking)
    said = first.choices[0].message
    assert (said.content, said.reasoning_content) == ("Let me look.", "Bern, then.")
    assert json.loads(said.tool_calls[0].function.arguments) == {"city": "Bern"}
    answered = {"role": "tool", "tool_call_id": said.tool_calls[0].id, "content": "sunny"}
    messages = [*QUESTION, said.model_dump(exclude_none=True), answered]
    second = await client.chat.completions.create(messages=messages, **asking)
    assert second.choices[0].message.content == "Sunny."
    sent = service.upstream.requests[-1].json
    assert [block["type"] for block in sent["messages"][1]["content"]] == ["thinking", "text", "tool_use"]
    assert sent["messages"][1]["content"][0]["signature"] == "c2lnbmF0dXJl"
    assert sent["messages"][2]["content"] == [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "sunny"}]
    assert sent["thinking"]["type"] == "enabled"


async def test_a_stream_is_one_of_openais(service: RunningService, connect: Connect) -> None:
    """The client's own accumulator understands the stream, and is told what it used."""
    service.upstream.script(streamed(CALLING))
    request = {"model": ANTHROPIC_MODEL, "messages": QUESTION, "tools": [TOOL]}
    async with connect().chat.completions.stream(**request, stream_options={"include_usage": True}) as stream:
        final = await stream.get_final_completion()
    choice = final.choices[0]
    assert (choice.message.content, choice.finish_reason) == ("Let me look.", "tool_calls")
    assert json.loads(choice.message.tool_calls[0].function.arguments) == {"city": "Bern"}
    assert (final.usage.prompt_tokens, final.usage.completion_tokens) == (10, 5)


async def test_other_endpoints_are_served_through_chat(service: RunningService, connect: Connect) -> None:
    """Text completions and responses reach Anthropic as messages."""
    service.upstream.script(VENDOR.answer(Content(words=["one"])), streamed(Content(words=["two"], thought="Hm.")))
    client = connect()
    completion = await client.completions.create(model=ANTHROPIC_MODEL, prompt="Count.", max_tokens=5)
    assert completion.choices[0].text == "one"
    stream = await client.responses.create(model=ANTHROPIC_MODEL, input="Count.", stream=True)
    last = [event async for event in stream][-1]
    assert last.response.output_text == "two"
    assert [request.path for request in service.upstream.requests] == ["/v1/messages", "/v1/messages"]


async def test_what_anthropic_cannot_do_is_told_before_it_costs(service: RunningService, connect: Connect) -> None:
    """A refusal names the member, reaches no provider and costs nothing."""
    tenant = await service.tenant(allowance=10)
    client = connect(tenant.key)
    with pytest.raises(BadRequestError) as caught:
        await client.chat.completions.create(model=ANTHROPIC_MODEL, messages=QUESTION, n=2)
    assert (caught.value.param, caught.value.code) == ("n", "unsupported_parameter")
    assert not service.upstream.requests
    service.upstream.script(VENDOR.answer(Content(words=["fine"])))
    raw = await client.chat.completions.with_raw_response.create(model=ANTHROPIC_MODEL, messages=QUESTION)
    assert raw.headers["x-quillgate-messages-remaining"] == "9"
