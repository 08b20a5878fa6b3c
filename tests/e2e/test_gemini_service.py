"""A Gemini model through the whole service, with the official client: an agent's loop, its signatures and its bill."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from conformance.vendor import Call, Content, Spent
from conformance.vendor_gemini import VENDOR
from fakes.gemini_site import response
from fakes.scripted_upstream import sse_answer, sse_event
from openai import AsyncOpenAI, BadRequestError
from service import RunningService, start_service

MODEL = "google/gemini"
_CATALOGUE = """
[providers.scripted]
base_url = "{base_url}"
protocol = "gemini"

[[models]]
id = "google/gemini"
context_window = 128000
max_output_tokens = 8192
upstreams = [{{ provider = "scripted", model = "gemini-3.8-flash" }}]
"""
TOOLS: list[Any] = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
HI: list[Any] = [{"role": "user", "content": "The weather in Bern?"}]
USAGE = {"promptTokenCount": 20_000, "cachedContentTokenCount": 10_000, "candidatesTokenCount": 5}


@pytest_asyncio.fixture
async def service(database_url: str, tmp_path: Path) -> AsyncIterator[RunningService]:
    """The service with a Gemini model."""
    async with start_service(database_url, tmp_path, catalogue_text=_CATALOGUE) as running:
        yield running


@pytest_asyncio.fixture
async def client(service: RunningService) -> AsyncIterator[AsyncOpenAI]:
    """The official client."""
    async with AsyncOpenAI(base_url=service.base_url, api_key=service.developer_key, max_retries=0) as made:
        yield made


def call_stream() -> Any:
    """A stream that thinks and calls a tool, signed."""
    part = {"functionCall": {"name": "weather", "args": {"city": "Bern"}}, "thoughtSignature": "signed=="}
    return sse_answer(
        sse_event(response({"text": "Hm.", "thought": True}, usageMetadata=USAGE)),
        sse_event(response(part, reason="STOP", usageMetadata=USAGE)),
    )


async def test_an_agents_loop_keeps_its_signatures(service: RunningService, client: AsyncOpenAI) -> None:
    """Calls stream to the client and come back with their results, ids and signatures, and the turn is charged."""
    service.upstream.script(call_stream(), VENDOR.answer(Content(words=["Sunny."], spent=Spent(10, 0, 5))))
    stream = client.chat.completions.stream(model=MODEL, messages=HI, tools=TOOLS)
    async with stream as events:
        said = (await events.get_final_completion()).choices[0]
    assert said.finish_reason == "tool_calls"
    (call,) = said.message.tool_calls or []
    assert json.loads(call.function.arguments or "") == {"city": "Bern"}
    assert (call.model_extra or {})["extra_content"] == {"google": {"thought_signature": "signed=="}}
    history: list[Any] = [
        *HI,
        {"role": "assistant", "tool_calls": [call.model_dump(exclude_unset=True)]},
        {"role": "tool", "tool_call_id": call.id, "content": "sun"},
    ]
    answer = await client.chat.completions.create(model=MODEL, messages=history, tools=TOOLS)
    assert answer.choices[0].message.content == "Sunny."
    sent = service.upstream.requests[-1].json["contents"]
    assert [turn["role"] for turn in sent] == ["user", "model", "user"]
    assert sent[1]["parts"][0]["thoughtSignature"] == "signed=="
    assert sent[1]["parts"][0]["functionCall"]["id"] == sent[2]["parts"][0]["functionResponse"]["id"] == call.id
    rows = await service.rows(
        "SELECT prompt_tokens, cached_tokens, completion_tokens, usage_source FROM ledger ORDER BY 1"
    )
    assert rows == [(10, 0, 5, "provider"), (20_000, 10_000, 5, "provider")]


async def test_a_client_that_drops_what_it_does_not_know_can_go_on(
    service: RunningService, client: AsyncOpenAI
) -> None:
    """The Responses API has no place for signatures; Gemini is told that there are none."""
    service.upstream.script(call_stream(), VENDOR.answer(Content(words=["Sunny."])))
    tools: list[Any] = [{"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": False}]
    first = await client.responses.create(model=MODEL, input="The weather?", tools=tools, stream=True)
    done: list[Any] = [event async for event in first if event.type == "response.output_item.done"]
    call = done[-1].item
    assert (call.type, call.name, call.arguments) == ("function_call", "weather", '{"city":"Bern"}')
    items: list[Any] = [
        {"role": "user", "content": "The weather?"},
        {"type": "function_call", "call_id": call.call_id, "name": call.name, "arguments": call.arguments},
        {"type": "function_call_output", "call_id": call.call_id, "output": "sun"},
    ]
    second = await client.responses.create(model=MODEL, input=items, tools=tools)
    assert second.output_text == "Sunny."
    parts = service.upstream.requests[-1].json["contents"][1]["parts"]
    assert parts[0]["thoughtSignature"] == "skip_thought_signature_validator"


async def test_what_gemini_cannot_do_costs_nothing(service: RunningService, client: AsyncOpenAI) -> None:
    """A request that is refused beforehand reaches neither the provider nor the ledger."""
    with pytest.raises(BadRequestError) as caught:
        await client.chat.completions.create(model=MODEL, messages=HI, logit_bias={"5": 1})
    assert (caught.value.param, caught.value.code) == ("logit_bias", "unsupported_parameter")
    assert service.upstream.requests == []
    assert await service.rows("SELECT 1 FROM ledger") == []


async def test_a_call_in_one_piece_is_read_by_clients(service: RunningService, client: AsyncOpenAI) -> None:
    """Whole answers have calls with exact arguments too."""
    calls = [Call("theirs", "weather", '{"n": 12345678901234567890}')]
    service.upstream.script(VENDOR.answer(Content(calls=calls, end="tool_calls")))
    answer = await client.chat.completions.create(model=MODEL, messages=HI, tools=TOOLS)
    (call,) = answer.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert (call.id, call.function.arguments) == ("theirs", '{"n":12345678901234567890}')
