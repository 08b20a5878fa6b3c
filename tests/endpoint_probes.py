"""A good request to every endpoint that meters: what tests of behaviour that all of them share walk over."""

import io
import wave
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import FormData
from fakes.scripted_upstream import ScriptedAnswer, json_answer, sse_answer, sse_event
from service import MODEL, SPEECH_MODEL


@dataclass(frozen=True)
class Probe:
    """One endpoint and the members that it answers, in a JSON body or in a form with some sound."""

    path: str
    members: Mapping[str, Any]
    is_form: bool = False

    def payload(self, *, silence_s: float = 1.0, **changes: Any) -> dict[str, Any]:
        """What to give an HTTP client; a change to None leaves the member out."""
        members = {**self.members, **changes}
        members = {name: value for name, value in members.items() if value is not None}
        if not self.is_form:
            return {"json": members}
        form = FormData({name: str(value).lower() for name, value in members.items()})
        form.add_field("file", silence(silence_s), filename="silence.wav", content_type="audio/wav")
        return {"data": form}

    def answers(self, *, stream: bool) -> tuple[ScriptedAnswer, ...]:
        """What the provider has to be told to answer; nothing where it knows by itself."""
        if not self.is_form:
            return ()
        usage = {"type": "tokens", "input_tokens": 10, "output_tokens": 5, "total_tokens": 15}
        whole = {"text": "Silence.", "usage": usage}
        if stream:
            return (sse_answer(sse_event({"type": "transcript.text.done", **whole})),)
        return (json_answer(200, whole),)


def silence(duration_s: float) -> bytes:
    """A sound file of that length."""
    sound = io.BytesIO()
    with wave.open(sound, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(2 * int(8000 * duration_s)))
    return sound.getvalue()


JSON_PROBES = (
    Probe("/chat/completions", {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}),
    Probe("/completions", {"model": MODEL, "prompt": "Hi"}),
    Probe("/responses", {"model": MODEL, "input": "Hi"}),
)
PROBES = (*JSON_PROBES, Probe("/audio/transcriptions", {"model": SPEECH_MODEL}, is_form=True))
