"""A stream that is silent for long gets comments, on every endpoint that streams, and is whole all the same."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import ClientSession
from endpoint_probes import PROBES, Probe
from fakes.scripted_upstream import BodyStep, ScriptedAnswer, chat_stream
from service import RunningService, start_service

from quillgate_facade.config import FacadeConfig

INTERVAL_S = 0.05
SILENCE_S = 0.5
ENDS = {
    "/chat/completions": "data: [DONE]",
    "/completions": "data: [DONE]",
    "/responses": "event: response.completed",
    "/audio/transcriptions": "transcript.text.done",
}


@pytest_asyncio.fixture
async def impatient(database_url: str, tmp_path: Path) -> AsyncIterator[RunningService]:
    """A service that comments on a silence of 50 ms."""
    facade = FacadeConfig(port=0, comment_interval_s=INTERVAL_S)
    async with start_service(database_url, tmp_path, facade=facade) as running:
        yield running


def _answer(probe: Probe) -> ScriptedAnswer:
    return probe.answers(stream=True)[0] if probe.is_form else chat_stream(["Hello ", "you."])


PLACES = ("before the head", "before the first event", "between")
#: A transcription's scripted answer is one event, which nothing can come between.
CASES = [(probe, place) for probe in PROBES for place in PLACES if not (probe.is_form and place == "between")]


@pytest.mark.parametrize(("probe", "place"), CASES, ids=[f"{probe.path} {place}" for probe, place in CASES])
async def test_silence_is_filled(impatient: RunningService, probe: Probe, place: str) -> None:
    """Wherever the provider pauses, the client hears comments between events, and then the rest."""
    answer = _answer(probe)
    silence: tuple[BodyStep, ...] = (SILENCE_S,)
    if place == "before the head":
        answer = ScriptedAnswer(answer.status, answer.headers, answer.steps, before=silence)
    elif place == "before the first event":
        answer = ScriptedAnswer(answer.status, answer.headers, (*silence, *answer.steps))
    else:
        answer = ScriptedAnswer(answer.status, answer.headers, (*answer.steps[:2], *silence, *answer.steps[2:]))
    impatient.upstream.script(answer)
    headers = {"authorization": f"Bearer {impatient.developer_key}"}
    async with (
        ClientSession(headers=headers) as http,
        http.post(impatient.base_url + probe.path, **probe.payload(stream=True)) as reply,
    ):
        assert reply.status == 200
        text = await reply.text()
    blocks = text.split("\n\n")
    assert blocks.count(": keep-alive") >= 2
    assert ENDS[probe.path] in text
    assert all(block == ": keep-alive" or block.startswith(("data: ", "event: ")) for block in blocks if block)
