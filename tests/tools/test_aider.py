"""Aider: a question, and an edit to a file that it commits."""

import subprocess
import sys
from pathlib import Path

import pytest
from fakes.scripted_upstream import DEFAULT_TEXT, RecordedRequest, ScriptedAnswer, chat_answer, chat_stream
from service import MODEL

from .conftest import Sit, metered_requests
from .desk import Desk, Finished
from .installed import python_tool

pytestmark = [
    pytest.mark.tools,
    pytest.mark.skipif(sys.version_info >= (3, 13), reason="Aider does not install on Python 3.13 and newer"),
]

BEFORE = 'def greeting():\n    return "hello"\n'
AFTER = 'def greeting():\n    return "good morning"\n'
EDIT = """I change the greeting.

greet.py
```python
<<<<<<< SEARCH
    return "hello"
=======
    return "good morning"
>>>>>>> REPLACE
```
"""
QUIET = ["--yes-always", "--no-pretty", "--no-analytics", "--no-check-update", "--no-show-release-notes"]
_OFFLINE = {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}


@pytest.fixture(scope="module")
def aider() -> Path:
    """The executable."""
    return python_tool("aider")


async def ask(desk: Desk, aider: Path, message: str, *options: str) -> Finished:
    """Gives Aider one message about greet.py in a repository, configured by our command."""
    desk.make_repository(greet_py=BEFORE)
    await desk.configure("aider", "--model", MODEL)
    desk.environ |= _OFFLINE | {"OPENAI_API_KEY": desk.service.developer_key}
    return await desk.run(aider, *QUIET, *options, "--message", message, "greet.py", timeout_s=120)


async def test_question(sit: Sit, aider: Path) -> None:
    """A question is answered, and one metered request has neither usage nor tools asked for."""
    async with sit() as desk:
        finished = await ask(desk, aider, "What does this do?")
        assert DEFAULT_TEXT in finished.out, finished.out + finished.err
        assert f"Model: openai/{MODEL}" in finished.out
        assert len(desk.service.upstream.requests) == await metered_requests(desk) == 1


async def test_edit(sit: Sit, aider: Path) -> None:
    """A SEARCH/REPLACE answer changes the file, and a second request words the commit."""

    def answer(request: RecordedRequest) -> ScriptedAnswer:
        if not request.json.get("stream"):
            return chat_answer("feat: Wish a good morning")
        return chat_stream(EDIT.splitlines(keepends=True))

    async with sit(answer) as desk:
        finished = await ask(desk, aider, "Wish a good morning instead.", "--edit-format", "diff")
        assert (desk.project / "greet.py").read_text() == AFTER, finished.out + finished.err
        log = ["git", "log", "--format=%s", "-1"]
        subject = subprocess.run(log, cwd=desk.project, capture_output=True, text=True, check=True, timeout=30).stdout
        assert subject.strip() == "feat: Wish a good morning"
        assert [bool(request.json.get("stream")) for request in desk.service.upstream.requests] == [True, False]
        assert await metered_requests(desk) == 2


async def test_bad_key(sit: Sit, aider: Path) -> None:
    """A wrong key is told in the server's words; the file stays as it is."""
    async with sit() as desk:
        finished = await ask(desk, aider, "Anything.", "--openai-api-key", "sk-wrong")
        assert "AuthenticationError" in finished.out
        assert (desk.project / "greet.py").read_text() == BEFORE
        assert desk.service.upstream.requests == []
