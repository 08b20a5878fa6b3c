"""Speech that espeak-ng speaks is understood by quillgate/pocketsphinx on this machine, without any provider."""

import importlib.util
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai_clients import Connect
from service import RunningService

from quillgate.v1 import completion_service_pb2 as pb
from quillgate.v1.completion_service_pb2_grpc import CompletionServiceStub
from quillgate.v1.transcription_pb2 import TranscriptionOptions

pytestmark = pytest.mark.skipif(
    shutil.which("espeak-ng") is None or importlib.util.find_spec("pocketsphinx") is None,
    reason="needs the program espeak-ng and the extra `speech`",
)

MODEL = "quillgate/pocketsphinx"
WORDS = ["one", "two", "three", "four", "five"]


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    """A WAV of five spoken words."""
    path = tmp_path / "speech.wav"
    subprocess.run(["espeak-ng", "-v", "en-us+m3", "-s", "130", "-p", "40", "-w", path, " ".join(WORDS)], check=True)
    return path


async def test_words_come_back(service: RunningService, connect: Connect, speech: Path) -> None:
    """The words are understood, with times that follow each other within the length of the file."""
    answer = await connect().audio.transcriptions.create(
        model=MODEL, file=speech, response_format="verbose_json", timestamp_granularities=["word", "segment"]
    )
    assert answer.text.split() == WORDS
    assert answer.language == "english"
    assert [word.word for word in answer.words] == WORDS
    times = [time for word in answer.words for time in (word.start, word.end)]
    assert times == sorted(times) and times[0] >= 0 and times[-1] <= answer.duration
    assert 1 < answer.duration < 4
    assert answer.segments[0].text == answer.text


@pytest.mark.parametrize(
    ("response_format", "pattern"),
    [
        ("text", r"one two three four five\n"),
        ("srt", r"1\n00:00:0\d,\d{3} --> 00:00:0\d,\d{3}\none two three four five\n\n"),
        ("vtt", r"WEBVTT\n\n00:00:0\d\.\d{3} --> 00:00:0\d\.\d{3}\none two three four five\n\n"),
    ],
)
async def test_texts(
    service: RunningService, connect: Connect, speech: Path, response_format: Any, pattern: str
) -> None:
    """Text and subtitles have the words and real times."""
    text = await connect().audio.transcriptions.create(model=MODEL, file=speech, response_format=response_format)
    assert re.fullmatch(pattern, str(text))


async def test_stream(service: RunningService, connect: Connect, speech: Path) -> None:
    """A stream gives what is said between pauses, then all of it, and one message is charged."""
    tenant = await service.tenant()
    stream = await connect(tenant.key).audio.transcriptions.create(model=MODEL, file=speech, stream=True)
    events = [event async for event in stream]
    assert "".join(event.delta for event in events[:-1]) == events[-1].text == " ".join(WORDS)
    assert await service.daily(tenant) == (1, 0, 0, 0, 0, 1)


@pytest.mark.parametrize("encoding", ["FLAC", "OGG", "MP3"])
async def test_compressed(
    service: RunningService, connect: Connect, speech: Path, tmp_path: Path, encoding: str
) -> None:
    """FLAC, Ogg and MP3 are decoded; most words survive a lossy encoding."""
    soundfile: Any = importlib.import_module("soundfile")
    path = tmp_path / f"speech.{encoding.lower()}"
    soundfile.write(path, *soundfile.read(speech), format=encoding)
    answer = await connect().audio.transcriptions.create(model=MODEL, file=path)
    assert len(set(WORDS) & set(answer.text.split())) >= 3


async def test_what_is_no_sound(service: RunningService, connect: Connect) -> None:
    """Bytes that nobody can decode, and another language than English, are a 400 that costs nothing."""
    tenant = await service.tenant()
    client = connect(tenant.key)
    for problem in ({"file": ("a.wav", b"RIFF\0\1\2\3" * 999)}, {"file": ("a.wav", b"RIFF\0"), "language": "de"}):
        with pytest.raises(openai.BadRequestError):
            await client.audio.transcriptions.create(model=MODEL, **problem)
    assert await service.daily(tenant) in (None, (0, 0, 0, 0, 0, 0))


async def test_grpc(service: RunningService, speech: Path) -> None:
    """The typed RPC takes options and sound as a stream of messages and gives the transcription with its receipt."""
    stub: Any = CompletionServiceStub(service.core.channel)

    async def messages() -> AsyncIterator[pb.CreateTranscriptionRequest]:
        yield pb.CreateTranscriptionRequest(options=TranscriptionOptions(model=MODEL, filename="speech.wav"))
        data = speech.read_bytes()
        for start in range(0, len(data), 1000):
            yield pb.CreateTranscriptionRequest(audio=data[start : start + 1000])

    answer = await stub.CreateTranscription(messages(), metadata=service.metadata(service.developer_key))
    assert answer.transcription.text.split() == WORDS
    assert answer.receipt.counted_messages == 1
