"""The local recognizer's process: what it says is read, and it is gone whatever happens. No engine is needed here."""

import asyncio
import os
import sys
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from quillgate.v1.transcription_pb2 import TranscriptionOptions
from quillgate_core.errors import InvalidRequest, Overloaded, ProviderTimeout, ProviderUnavailable
from quillgate_core.providers.pocketsphinx import PocketSphinx
from quillgate_core.upstream import TranscriptionTask

SPEAKS = """
import json
print(json.dumps({"duration": 2.0}))
for start, text in ((0.0, "one"), (1.0, "two")):
    words = [[text, start, start + 0.5]]
    print(json.dumps({"start": start, "end": start + 0.5, "text": text, "avg_logprob": -0.5, "words": words}))
print(json.dumps({"done": True}))
"""
HANGS = """
import os, sys, time
open(sys.argv[1] + ".pid", "w").write(str(os.getpid()))
print('{"duration": 2.0}', flush=True)
time.sleep(600)
"""


def provider(script: str, **settings: Any) -> PocketSphinx:
    """A recognizer whose process runs a script."""
    return PocketSphinx(worker=(sys.executable, "-I", "-c", script), **settings)


def task(directory: Path, **options: Any) -> TranscriptionTask:
    """An upload."""
    return TranscriptionTask(directory / "sound", TranscriptionOptions(**options), "en-us")


async def wait_for_pid(directory: Path) -> int:
    """Returns the id of the process that hangs, once it runs."""
    path = directory / "sound.pid"
    async with asyncio.timeout(10):
        while not path.exists() or not path.read_text():
            await asyncio.sleep(0.01)
    return int(path.read_text())


async def test_whole(tmp_path: Path) -> None:
    """Segments are joined to the text; the verbose form has what was asked for and all that clients insist on."""
    recognizer = provider(SPEAKS)
    plain = await recognizer.create_transcription(task(tmp_path))
    assert plain.text == "one two"
    assert not plain.segments and not plain.words and not plain.HasField("duration")
    verbose = await recognizer.create_transcription(task(tmp_path, response_format="verbose_json"))
    assert (verbose.task, verbose.language, verbose.duration) == ("transcribe", "english", 2.0)
    assert [(segment.id, segment.seek, segment.start, segment.end) for segment in verbose.segments] == [
        (0, 0, 0.0, 0.5),
        (1, 100, 1.0, 1.5),
    ]
    assert not verbose.words
    words = await recognizer.create_transcription(
        task(tmp_path, response_format="verbose_json", timestamp_granularities=["word"])
    )
    assert [word.word for word in words.words] == ["one", "two"]
    assert not words.segments


async def test_stream(tmp_path: Path) -> None:
    """Each segment is a delta, and the deltas joined are the text of the end."""
    batches = [events async for events in provider(SPEAKS).stream_transcription(task(tmp_path))]
    assert [event.delta or event.text for events in batches for event in events] == ["one", " two", "one two"]


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ('print(\'{"problem": "format"}\')', InvalidRequest),
        ("raise SystemExit(1)", ProviderUnavailable),
        ("print('{\"duration\": 1.0}')", ProviderUnavailable),
        ("print('no JSON')", ProviderUnavailable),
        ("print('x' * 3_000_000)", ProviderUnavailable),
    ],
)
async def test_failures(tmp_path: Path, script: str, error: type[Exception]) -> None:
    """No sound is the caller's fault; a process that dies, stops early or talks nonsense is ours."""
    with pytest.raises(error):
        await provider(script).create_transcription(task(tmp_path))


async def test_no_environment(tmp_path: Path) -> None:
    """The process that reads a stranger's file gets none of our environment, where keys are."""
    script = "import os, json; print(json.dumps({'problem': 'x'}) if 'PATH' in os.environ else json.dumps({'done': 1}))"
    assert (await provider(script).create_transcription(task(tmp_path))).text == ""


async def test_too_long(tmp_path: Path) -> None:
    """A process that takes too long is killed."""
    with pytest.raises(ProviderTimeout):
        await provider(HANGS, total_s=1.0).create_transcription(task(tmp_path))
    with pytest.raises(ProcessLookupError):
        os.kill(await wait_for_pid(tmp_path), 0)


@pytest.mark.parametrize("stream", [False, True])
async def test_cancelled(tmp_path: Path, stream: bool) -> None:
    """Nobody waits any more: the process is killed and its place is free."""
    recognizer = provider(HANGS, max_workers=1, wait_s=0.01)

    async def listen() -> None:
        if not stream:
            await recognizer.create_transcription(task(tmp_path))
        async with aclosing(recognizer.stream_transcription(task(tmp_path))) as batches:
            async for _ in batches:
                pass

    listening = asyncio.create_task(listen())
    pid = await wait_for_pid(tmp_path)
    with pytest.raises(Overloaded):
        await recognizer.create_transcription(task(tmp_path))
    listening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await listening
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert recognizer._workers.locked() is False


@pytest.mark.parametrize("options", [{"language": "de"}, {"response_format": "diarized_json"}])
def test_what_it_cannot(tmp_path: Path, options: dict[str, str]) -> None:
    """Another language and telling speakers apart are refused before anything runs."""
    with pytest.raises(InvalidRequest):
        PocketSphinx().check_transcription(task(tmp_path, **options))
    PocketSphinx().check_transcription(task(tmp_path, language="en"))
