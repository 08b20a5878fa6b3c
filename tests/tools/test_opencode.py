"""OpenCode: a question, an edit through its tools, and an error that it shows."""

import json
from pathlib import Path
from typing import Any

import pytest
from fakes.scripted_upstream import (
    DEFAULT_TEXT,
    DONE,
    RecordedRequest,
    ScriptedAnswer,
    chat_chunk,
    chat_stream,
    default_answer,
    sse_answer,
    usage,
)
from service import MODEL

from .conftest import Sit, metered_requests
from .desk import Desk, Finished
from .installed import npm_packages

pytestmark = pytest.mark.tools

_OFF = ("AUTOUPDATE", "MODELS_FETCH", "LSP_DOWNLOAD", "DEFAULT_PLUGINS", "SHARE")
_OFFLINE = {f"OPENCODE_DISABLE_{name}": "1" for name in _OFF}


@pytest.fixture(scope="module")
def opencode() -> Path:
    """The executable."""
    return npm_packages() / "node_modules/.bin/opencode"


async def ask(desk: Desk, opencode: Path, message: str, **environ: str) -> Finished:
    """Runs one message in a project that our command configured."""
    await desk.configure("opencode", "--model", MODEL)
    desk.environ |= _OFFLINE
    return await desk.run(opencode, "run", "--model", f"gateway/{MODEL}", message, timeout_s=90, **environ)


def call(name: str, arguments: dict[str, Any]) -> ScriptedAnswer:
    """The model calls one of OpenCode's tools, its arguments in two pieces."""
    text = json.dumps(arguments)
    head = {"index": 0, "id": f"call_{name}", "type": "function", "function": {"name": name, "arguments": text[:9]}}
    tail = {"index": 0, "function": {"arguments": text[9:]}}
    return sse_answer(
        chat_chunk({"role": "assistant", "content": None, "tool_calls": [head]}),
        chat_chunk({"tool_calls": [tail]}),
        chat_chunk({}, finish_reason="tool_calls"),
        chat_chunk(None, usage=usage()),
        DONE,
    )


async def test_question(sit: Sit, opencode: Path) -> None:
    """A question is answered by the agent's request; the one for a title is metered too."""
    async with sit() as desk:
        finished = await ask(desk, opencode, "Say hello.")
        assert finished.code == 0, finished.err
        assert DEFAULT_TEXT in finished.out
        bodies = [request.json for request in desk.service.upstream.requests]
        assert {bool(body.get("tools")) for body in bodies} == {False, True}
        assert {body["max_tokens"] for body in bodies} == {8192}
        assert await metered_requests(desk) == len(bodies)


async def test_write_and_edit(sit: Sit, opencode: Path) -> None:
    """The agent writes a file, then edits it, through its own tools; what came of each reaches the provider."""
    edited: list[Path] = []

    def answer(request: RecordedRequest) -> ScriptedAnswer:
        body = request.json
        results = [message for message in body["messages"] if message["role"] == "tool"]
        if not body.get("tools"):
            return chat_stream(["A title"])
        path = str(edited[0])
        if not results:
            return call("write", {"filePath": path, "content": "one\ntwo\n"})
        if len(results) == 1:
            return call("edit", {"filePath": path, "oldString": "two", "newString": "three"})
        return chat_stream(["All ", "done."])

    async with sit(answer) as desk:
        edited.append(desk.project / "numbers.txt")
        finished = await ask(desk, opencode, "Write numbers.txt, then change two to three.")
        assert finished.code == 0, finished.err
        assert edited[0].read_text() == "one\nthree\n"
        assert "All done." in finished.out
        last = [request.json for request in desk.service.upstream.requests if request.json.get("tools")][-1]
        roles = [message["role"] for message in last["messages"]]
        assert roles == ["system", "user", "assistant", "tool", "assistant", "tool"]
        assert [message["tool_call_id"] for message in last["messages"] if message["role"] == "tool"] == [
            "call_write",
            "call_edit",
        ]
        assert await metered_requests(desk) == len(desk.service.upstream.requests)


async def test_bad_key(sit: Sit, opencode: Path) -> None:
    """A wrong key is shown in the server's words and ends the run, without a retry."""
    async with sit(default_answer) as desk:
        finished = await ask(desk, opencode, "Say hello.", QUILLGATE_API_KEY="sk-wrong")
        assert finished.code != 0
        assert "API key" in finished.out + finished.err
        assert desk.service.upstream.requests == []
