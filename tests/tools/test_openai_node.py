"""The official Node client: answers, streams, tools, models and errors; and the printed examples as they are."""

import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fakes.scripted_upstream import DEFAULT_TEXT, RecordedRequest, ScriptedAnswer, default_answer, json_answer
from service import MODEL

from .conftest import Sit, metered_requests
from .desk import Desk
from .installed import npm_packages

pytestmark = pytest.mark.tools

_HEAD = """
import OpenAI from "openai";
const client = new OpenAI({ baseURL: process.env.QUILLGATE_BASE_URL, apiKey: process.env.QUILLGATE_API_KEY });
const model = "scripted/model";
const messages = [{ role: "user", content: "Hello?" }];
const say = (value) => console.log(JSON.stringify(value));
"""
_TOOL = """
const parameters = { type: "object", properties: { city: { type: "string" } } };
const tools = [{ type: "function", function: { name: "weather", parameters } }];
const first = (await client.chat.completions.create({ model, messages, tools })).choices[0].message;
const call = first.tool_calls[0];
const result = { role: "tool", tool_call_id: call.id, content: "sunny in " + JSON.parse(call.function.arguments).city };
const second = await client.chat.completions.create({ model, messages: [...messages, first, result], tools });
say(second.choices[0].message.content);
"""


@pytest.fixture(scope="module")
def packages() -> Path:
    """The folder with the client."""
    return npm_packages()


async def run(desk: Desk, packages: Path, program: str) -> Any:
    """Runs a program and returns the one JSON value that it prints."""
    await _place(desk, packages)
    (desk.project / "program.mjs").write_text(_HEAD + program)
    finished = await desk.run("node", "program.mjs")
    assert finished.code == 0, finished.err
    return msgspec.json.decode(finished.out)


async def _place(desk: Desk, packages: Path) -> None:
    (desk.project / "node_modules").symlink_to(packages / "node_modules")


async def test_question(sit: Sit, packages: Path) -> None:
    """A question is answered, with usage and a request id."""
    program = """
const answer = await client.chat.completions.create({ model, messages });
say([answer.choices[0].message.content, answer.usage.total_tokens, answer._request_id.slice(0, 4)]);
"""
    async with sit() as desk:
        assert await run(desk, packages, program) == [DEFAULT_TEXT, 15, "req_"]
        assert await metered_requests(desk) == 1


async def test_stream(sit: Sit, packages: Path) -> None:
    """`.stream()` puts the answer together and knows the end."""
    program = """
const stream = client.chat.completions.stream({ model, messages });
let text = "";
stream.on("content", (delta) => { text += delta; });
const final = await stream.finalChatCompletion();
say([text, final.choices[0].finish_reason]);
"""
    async with sit() as desk:
        assert await run(desk, packages, program) == [DEFAULT_TEXT, "stop"]
        assert await metered_requests(desk) == 1


async def test_tool_round_trip(sit: Sit, packages: Path) -> None:
    """A tool call comes back typed, and its result reaches the provider."""

    def answer(request: RecordedRequest) -> ScriptedAnswer:
        if request.json["messages"][-1]["role"] == "tool":
            return default_answer(request)
        function = {"name": "weather", "arguments": '{"city":"Bern"}'}
        message = {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", "type": "function"}]}
        message["tool_calls"][0]["function"] = function  # type: ignore[index]
        choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
        return json_answer(200, {"id": "x", "object": "chat.completion", "created": 1, "choices": [choice]})

    async with sit(answer) as desk:
        assert await run(desk, packages, _TOOL) == DEFAULT_TEXT
        sent = desk.service.upstream.requests[-1].json["messages"]
        assert [message["role"] for message in sent] == ["user", "assistant", "tool"]
        assert sent[-1]["content"] == "sunny in Bern"
        assert await metered_requests(desk) == 2


async def test_responses(sit: Sit, packages: Path) -> None:
    """`responses.stream()` puts the whole together, and a response is continued and read again."""
    program = """
const stream = client.responses.stream({ model, input: "Hello?" });
const types = [];
for await (const event of stream) types.push(event.type);
const first = await stream.finalResponse();
const second = await client.responses.create({ model, input: "And?", previous_response_id: first.id });
const kept = await client.responses.retrieve(second.id);
say([types[0], types.at(-1), first.output_text, second.output_text, kept.id === second.id, first.usage.total_tokens]);
"""
    async with sit() as desk:
        told = await run(desk, packages, program)
        assert told == ["response.created", "response.completed", DEFAULT_TEXT, DEFAULT_TEXT, True, 15]
        sent = desk.service.upstream.requests[-1].json["messages"]
        assert [message["role"] for message in sent] == ["user", "assistant", "user"]
        assert await metered_requests(desk) == 2


async def test_text_completions(sit: Sit, packages: Path) -> None:
    """Text completions come whole and streamed."""
    program = """
const whole = await client.completions.create({ model, prompt: "Say" });
let text = "";
for await (const piece of await client.completions.create({ model, prompt: "Say", stream: true }))
  text += piece.choices[0]?.text ?? "";
say([whole.choices[0].text, text]);
"""
    async with sit() as desk:
        assert await run(desk, packages, program) == [DEFAULT_TEXT, DEFAULT_TEXT]
        assert await metered_requests(desk) == 2


async def test_models_and_errors(sit: Sit, packages: Path) -> None:
    """A listed model is retrieved by its id, slash and all; an unknown one is a NotFoundError with OpenAI's code."""
    program = """
const ids = [];
for await (const each of client.models.list()) ids.push(each.id);
const one = await client.models.retrieve(model);
let code;
try {
  await client.chat.completions.create({ model: "nobody/nothing", messages });
} catch (error) {
  code = error instanceof OpenAI.NotFoundError ? error.code : String(error);
}
say([ids.includes(model), one.id, code]);
"""
    async with sit() as desk:
        assert await run(desk, packages, program) == [True, MODEL, "model_not_found"]


@pytest.mark.parametrize(
    ("client", "command"),
    [
        ("node", ["node", "quillgate_example.mjs"]),
        ("python", [sys.executable, "quillgate_example.py"]),
        ("curl", ["sh", "quillgate.sh"]),
    ],
)
async def test_printed_examples_run(sit: Sit, packages: Path, client: str, command: list[str]) -> None:
    """What `client-config` writes for curl and the official clients runs as it is and prints the answer."""
    async with sit() as desk:
        await _place(desk, packages)
        await desk.configure(client, "--model", MODEL)
        finished = await desk.run(*command)
        assert finished.code == 0, finished.err
        assert "upstream." in finished.out
        assert await metered_requests(desk) == 1
