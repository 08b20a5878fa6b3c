"""Codex, which speaks responses only, on a model whose provider has chat completions only: a command that it runs."""

import json
from pathlib import Path

import pytest
from fakes.scripted_upstream import (
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
from .installed import npm_packages

pytestmark = pytest.mark.tools

# The sandbox needs rights that a container may not give; the command runs in the test's own folder.
_RUN = ["exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox"]


@pytest.fixture(scope="module")
def codex() -> Path:
    """The executable."""
    return npm_packages() / "node_modules/.bin/codex"


async def test_command_round_trip(sit: Sit, codex: Path) -> None:
    """The model calls for a shell command, Codex runs it, and the next answer is printed; hosted tools are left out."""

    def answer(request: RecordedRequest) -> ScriptedAnswer:
        if request.json["messages"][-1]["role"] == "tool":
            return chat_stream(["It is ", "made."])
        arguments = json.dumps({"cmd": "echo hi > made.txt"})
        function = {"name": "exec_command", "arguments": arguments}
        call = {"index": 0, "id": "call_1", "type": "function", "function": function}
        return sse_answer(
            chat_chunk({"role": "assistant", "content": None, "tool_calls": [call]}),
            chat_chunk({}, finish_reason="tool_calls"),
            chat_chunk(None, usage=usage()),
            DONE,
        )

    async with sit(answer) as desk:
        await desk.configure("codex", "--model", MODEL)
        finished = await desk.run(codex, *_RUN, "Make made.txt.", timeout_s=90)
        assert finished.code == 0, finished.err
        assert "It is made." in finished.out
        assert (desk.project / "made.txt").read_text() == "hi\n"
        sent = [request.json for request in desk.service.upstream.requests]
        assert {tool["type"] for tool in sent[0]["tools"]} == {"function"}
        assert sent[1]["messages"][-1]["tool_call_id"] == "call_1"
        assert await metered_requests(desk) == 2
