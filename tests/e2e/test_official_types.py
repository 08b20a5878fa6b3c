"""Every JSON answer and every event of every endpoint is what the official client's types say, in strict mode."""

import json
from typing import Any

import aiohttp
import pytest
from fakes.scripted_upstream import json_answer, sse_answer, sse_event
from fakes.sounds import wav
from openai.types import Completion, Model
from openai.types.audio import (
    TranscriptionStreamEvent,
    TranscriptionTextDeltaEvent,
    TranscriptionTextDoneEvent,
    TranscriptionVerbose,
)
from openai.types.audio.transcription import Transcription
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter
from service import SPEECH_MODEL, RunningService

ECHO = "quillgate/echo"
CHAT = {"model": ECHO, "messages": [{"role": "user", "content": "Hello, you!"}]}
TEXT = {"model": ECHO, "prompt": "Hello, you!"}
RESPONSE = {"model": ECHO, "input": "Hello, you!"}
USAGE = {"stream_options": {"include_usage": True}}
SOUND_USAGE = {"type": "tokens", "input_tokens": 14, "output_tokens": 6, "total_tokens": 20}


async def post(service: RunningService, path: str, body: Any = None, form: dict[str, Any] | None = None) -> bytes:
    """Posts JSON, or a form with a sound, and returns the whole answer."""
    data: Any = None
    if form is not None:
        data = aiohttp.FormData(form)
        data.add_field("file", wav(2.0), filename="speech.wav")
    headers = {"authorization": f"Bearer {service.developer_key}"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(service.base_url + path, json=body, data=data, headers=headers) as response,
    ):
        assert response.status == 200, await response.text()
        return await response.read()


def events_of(stream: bytes) -> list[bytes]:
    """The data of a stream's events, without the end mark."""
    data = [line.removeprefix(b"data: ") for line in stream.splitlines() if line.startswith(b"data: ")]
    assert len(data) > 2
    return [event for event in data if event != b"[DONE]"]


@pytest.mark.parametrize(
    ("path", "body", "kind"),
    [
        ("/chat/completions", CHAT, ChatCompletion),
        ("/completions", TEXT, Completion),
        ("/responses", RESPONSE, Response),
    ],
)
async def test_whole_answers(service: RunningService, path: str, body: Any, kind: type[BaseModel]) -> None:
    """A whole answer is of the official type."""
    kind.model_validate_json(await post(service, path, body), strict=True)


@pytest.mark.parametrize(
    ("path", "body", "kind"),
    [
        ("/chat/completions", {**CHAT, **USAGE}, ChatCompletionChunk),
        ("/chat/completions", CHAT, ChatCompletionChunk),
        ("/responses", RESPONSE, ResponseStreamEvent),
    ],
)
async def test_streams(service: RunningService, path: str, body: Any, kind: Any) -> None:
    """Every event of a stream is of the official type."""
    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    for event in events_of(await post(service, path, {**body, "stream": True})):
        adapter.validate_json(event, strict=True)


async def test_text_stream(service: RunningService) -> None:
    """So is every piece of a text, but for `finish_reason`, which OpenAI sends as null though its type denies that."""
    for event in events_of(await post(service, "/completions", {**TEXT, **USAGE, "stream": True})):
        piece = json.loads(event)
        for choice in piece["choices"]:
            choice["finish_reason"] = choice["finish_reason"] or "stop"
        Completion.model_validate_json(json.dumps(piece), strict=True)


async def test_transcriptions(service: RunningService) -> None:
    """Transcriptions are of the official types, short, verbose and streamed."""
    service.upstream.script(json_answer(200, {"text": "Hello.", "usage": SOUND_USAGE}))
    short = await post(service, "/audio/transcriptions", form={"model": SPEECH_MODEL})
    Transcription.model_validate_json(short, strict=True)

    verbose = {"task": "transcribe", "language": "english", "duration": 2.0, "text": "Hello.", "segments": []}
    service.upstream.script(json_answer(200, verbose))
    form = {"model": SPEECH_MODEL, "response_format": "verbose_json"}
    TranscriptionVerbose.model_validate_json(await post(service, "/audio/transcriptions", form=form), strict=True)

    done = {"type": "transcript.text.done", "text": "Hello.", "usage": SOUND_USAGE}
    deltas = [{"type": "transcript.text.delta", "delta": text} for text in ("Hel", "lo.")]
    service.upstream.script(sse_answer(*(sse_event(event) for event in [*deltas, done])))
    adapter: TypeAdapter[Any] = TypeAdapter(TranscriptionStreamEvent)
    events = events_of(await post(service, "/audio/transcriptions", form={"model": SPEECH_MODEL, "stream": "true"}))
    kinds = [type(adapter.validate_json(event, strict=True)) for event in events]
    assert kinds == [TranscriptionTextDeltaEvent, TranscriptionTextDeltaEvent, TranscriptionTextDoneEvent]


async def test_models(service: RunningService) -> None:
    """Every listed model is of the official type."""
    headers = {"authorization": f"Bearer {service.developer_key}"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.get(service.base_url + "/models") as response,
    ):
        listed = await response.json()
    assert listed["object"] == "list"
    for model in listed["data"]:
        Model.model_validate_json(json.dumps(model), strict=True)
