"""What real clients sent, replayed: every member reaches the provider, but for the few that a gateway must change.

The bodies in `captured/` were recorded from OpenCode 1.18.33, Aider 0.86.2, llm 0.36, Codex 0.169.0 and the official
Python (3.54) and Node (6.49) clients; long texts are cut, names of people and machines replaced, keys left out.
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from fakes.scripted_upstream import RecordedRequest, ScriptedAnswer, json_answer, sse_answer, sse_event
from fakes.text_answers import text_or_chat
from service import RunningService, start_service

CAPTURED = Path(__file__).parent / "captured"
NAMES = sorted(path.stem for path in CAPTURED.glob("*.json"))
ENDPOINTS = {"/chat/completions": "chat", "/completions": "completion", "/responses": "responses"}


class Missing:
    """Stands for a member that is not there."""

    def __repr__(self) -> str:
        return "nothing"


_MISSING = Missing()


MAY_DIFFER: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "model": ("the catalogue names the model as its provider knows it", lambda sent: "upstream-model"),
    "stream": ("said also where leaving it out means the same", lambda sent: False),
    "stream_options": (
        "usage is asked for on every chat and text stream, because it is metered, and hidden from who did not ask",
        lambda sent: {"include_usage": True},
    ),
    "stream_options.include_usage": ("the same, where the client sent stream_options", lambda sent: True),
    "input": (
        "Responses: a text is sent as the one message that it stands for, because conversations are continued here",
        lambda sent: [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": sent}]}],
    ),
    "input[].type": ("Responses: the same; an item without a type is a message", lambda sent: "message"),
}
"""Paths of members that may reach the provider otherwise than the client sent them: why, and what it gets instead."""

_CATALOGUE = """
[providers.everything]
base_url = "{base_url}"
native_endpoints = ["chat.completions", "completions", "responses"]

[[models]]
id = "scripted/model"
context_window = 128000
max_output_tokens = 8192
upstreams = [{{ provider = "everything", model = "upstream-model" }}]
"""


def differences(sent: Any, received: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yields the path of every value that is not the same on both sides, with both."""
    if isinstance(sent, dict) and isinstance(received, dict):
        for name in [*sent, *(name for name in received if name not in sent)]:
            below = f"{path}.{name}" if path else name
            yield from differences(sent.get(name, _MISSING), received.get(name, _MISSING), below)
    elif isinstance(sent, list) and isinstance(received, list) and len(sent) == len(received):
        for at, (before, after) in enumerate(zip(sent, received, strict=True)):
            yield from differences(before, after, f"{path}[{at}]")
    elif type(sent) is not type(received) or sent != received:
        yield path, sent, received


def responses_too(request: RecordedRequest) -> ScriptedAnswer:
    """Answers Responses natively, with the least that is whole, and the rest as a sane provider does."""
    if not request.path.endswith("/responses"):
        return text_or_chat(request)
    usage = {
        "input_tokens": 10,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 15,
    }
    whole = {"id": "resp_1", "object": "response", "created_at": 1, "status": "completed", "model": "upstream-model"}
    text = {"type": "output_text", "text": "Hello.", "annotations": [], "logprobs": []}
    item = {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "content": [text]}
    whole |= {"output": [item], "usage": usage}
    if not request.json.get("stream"):
        return json_answer(200, whole)
    begun = {**whole, "status": "in_progress", "usage": None}
    return sse_answer(
        sse_event({"type": "response.created", "sequence_number": 0, "response": begun}),
        sse_event({"type": "response.completed", "sequence_number": 1, "response": whole}),
    )


def captured(name: str) -> dict[str, Any]:
    """Returns one recorded request: path, headers and body."""
    value: dict[str, Any] = json.loads((CAPTURED / f"{name}.json").read_text())
    return value


async def replay(service: RunningService, request: dict[str, Any]) -> tuple[int, bytes]:
    """Sends a recorded request as it was, but for the key."""
    headers = {**request["headers"], "authorization": f"Bearer {service.developer_key}"}
    body = json.dumps(request["body"]).encode()
    async with (
        aiohttp.ClientSession() as session,
        session.post(service.base_url + request["path"], data=body, headers=headers) as response,
    ):
        return response.status, await response.read()


@pytest.mark.parametrize("shape", ["together", "apart"])
async def test_every_member_reaches_the_provider(shape: Any, database_url: str, tmp_path: Path) -> None:
    """The provider gets each member as the client sent it, integers as integers, unknown ones and nulls too.

    What differs is on the list, is what the list says, and the list has nothing that no client shows.
    """
    seen: set[str] = set()
    wrong: dict[str, Any] = {}
    start = {"shape": shape, "fallback": responses_too, "catalogue_text": _CATALOGUE}
    async with start_service(database_url, tmp_path, **start) as service:
        for name in NAMES:
            request = captured(name)
            status, answer = await replay(service, request)
            assert status == 200, (name, answer)
            received = service.upstream.requests[-1]
            assert received.path == "/v1" + request["path"]
            for path, before, after in differences(request["body"], received.json):
                place = re.sub(r"\[\d+\]", "[]", path)
                seen.add(place)
                if place not in MAY_DIFFER or MAY_DIFFER[place][1](before) != after:
                    wrong[f"{name}: {path}"] = (before, after)
    assert wrong == {}
    assert seen == set(MAY_DIFFER)


async def test_usage_is_shown_only_to_those_who_asked(database_url: str, tmp_path: Path) -> None:
    """A chat stream has a chunk with the usage exactly when the client's stream_options ask for it."""
    shown, asked = {}, {}
    async with start_service(database_url, tmp_path) as service:
        for name in NAMES:
            request = captured(name)
            if request["path"] == "/chat/completions" and request["body"].get("stream"):
                _, answer = await replay(service, request)
                shown[name] = b'"usage":{' in answer
                asked[name] = bool((request["body"].get("stream_options") or {}).get("include_usage"))
    assert shown == asked
    assert set(asked.values()) == {False, True}


def test_the_recordings_hold_no_secret() -> None:
    """No recording has an authorization header, a key, or a path of the machine that it was made on."""
    assert len(NAMES) >= 15
    assert {captured(name)["path"] for name in NAMES} == set(ENDPOINTS)
    for name in NAMES:
        assert "authorization" not in captured(name)["headers"]
        text = (CAPTURED / f"{name}.json").read_text()
        assert not any(word in text for word in ("Bearer ", "qg_live_", "sk-", "/tmp/"))


def test_differences_are_found() -> None:
    """The comparison tells what is missing, added, reordered or of another type."""
    sent = {"a": 1, "b": [1, 2], "c": None, "d": {"e": 1.0}}
    assert list(differences(sent, {"a": 1, "b": [1, 2], "c": None, "d": {"e": 1.0}})) == []
    received = {"a": True, "b": [2, 1], "d": {"e": 1}, "f": 0}
    paths = [path for path, _, _ in differences(sent, received)]
    assert paths == ["a", "b[0]", "b[1]", "c", "d.e", "f"]
