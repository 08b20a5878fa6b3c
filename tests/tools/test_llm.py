"""The `llm` command: a question, a streamed answer, a tool call round trip."""

import json
from pathlib import Path

import pytest
from fakes.scripted_upstream import (
    DEFAULT_TEXT,
    DONE,
    RecordedRequest,
    ScriptedAnswer,
    chat_chunk,
    chat_stream,
    sse_answer,
    usage,
)
from service import MODEL

from .conftest import Sit, metered_requests
from .desk import Desk
from .installed import python_tool

pytestmark = pytest.mark.tools


@pytest.fixture(scope="module")
def llm() -> Path:
    """The executable."""
    return python_tool("llm")


async def set_up(desk: Desk) -> None:
    """Configures llm with our command, and gives it the key as `llm keys set` would."""
    folder = desk.home / "llm"
    desk.environ["LLM_USER_PATH"] = str(folder)
    await desk.configure("llm", "--model", MODEL)
    (folder / "keys.json").write_text(json.dumps({"quillgate": desk.service.developer_key}))


async def test_question(sit: Sit, llm: Path) -> None:
    """A question is answered, streamed and not; both are metered."""
    async with sit() as desk:
        await set_up(desk)
        streamed = await desk.run(llm, "-m", MODEL, "Hello?")
        assert (streamed.code, streamed.out.strip()) == (0, DEFAULT_TEXT), streamed.err
        whole = await desk.run(llm, "-m", MODEL, "--no-stream", "Hello?")
        assert (whole.code, whole.out.strip()) == (0, DEFAULT_TEXT), whole.err
        assert [request.json.get("stream") for request in desk.service.upstream.requests] == [True, False]
        assert await metered_requests(desk) == 2


async def test_models(sit: Sit, llm: Path) -> None:
    """`llm openai endpoint --models` lists what the key may use, and the configured models are llm's too."""
    async with sit() as desk:
        await set_up(desk)
        endpoint = ["openai", "endpoint", desk.service.base_url, "--key", desk.service.developer_key]
        listed = await desk.run(llm, *endpoint, "--models")
        assert MODEL in listed.out.split()
        known = await desk.run(llm, "models", "list")
        assert MODEL in known.out


async def test_tool_round_trip(sit: Sit, llm: Path) -> None:
    """The model calls a function of the user's, llm runs it, and the result reaches the provider."""

    def answer(request: RecordedRequest) -> ScriptedAnswer:
        last = request.json["messages"][-1]
        if last["role"] == "tool":
            return chat_stream([f"It is {last['content']}."])
        call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "double", "arguments": '{"n":21}'}}
        chunks = [chat_chunk({"role": "assistant", "content": None, "tool_calls": [call]})]
        chunks += [chat_chunk({}, finish_reason="tool_calls"), chat_chunk(None, usage=usage())]
        return sse_answer(*chunks, DONE)

    async with sit(answer) as desk:
        await set_up(desk)
        functions = "def double(n: int) -> int:\n    'Doubles.'\n    return 2 * n\n"
        finished = await desk.run(llm, "-m", MODEL, "--functions", functions, "Double 21.")
        assert (finished.code, finished.out.strip()) == (0, "It is 42."), finished.err
        first, second = (request.json for request in desk.service.upstream.requests)
        assert first["tools"][0]["function"]["name"] == "double"
        assert second["messages"][-1] == {"role": "tool", "tool_call_id": "call_1", "content": "42"}
        assert await metered_requests(desk) == 2


async def test_responses_and_text_completions(sit: Sit, llm: Path) -> None:
    """llm's two other kinds of model work too: one asks through responses, one through text completions."""
    async with sit() as desk:
        await set_up(desk)
        endpoint = ["openai", "endpoint", desk.service.base_url, "--key", desk.service.developer_key]
        for options in (["--responses"], ["--responses", "--no-stream"]):
            finished = await desk.run(llm, *endpoint, "-m", MODEL, *options, "Hello?")
            assert (finished.code, finished.out.strip()) == (0, DEFAULT_TEXT), finished.err
        models = desk.home / "llm" / "extra-openai-models.yaml"
        models.write_text(models.read_text().replace("  supports_tools: true\n", "  completion: true\n"))
        finished = await desk.run(llm, "-m", MODEL, "Hello?")
        assert (finished.code, finished.out.strip()) == (0, DEFAULT_TEXT), finished.err
        assert await metered_requests(desk) == 3


async def test_bad_key(sit: Sit, llm: Path) -> None:
    """A wrong key ends with the server's words and code 1, at once."""
    async with sit() as desk:
        await set_up(desk)
        finished = await desk.run(llm, "-m", MODEL, "--key", "sk-wrong", "Hello?")
        assert finished.code == 1
        assert "Incorrect API key provided" in finished.err
        assert desk.service.upstream.requests == []
