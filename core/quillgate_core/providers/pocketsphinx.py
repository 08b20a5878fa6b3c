"""Speech to text on this machine: CMU PocketSphinx with the American English model that its wheel carries.

Made for a small vocabulary in quiet rooms and no match for a large model, but it needs nobody. Each upload is heard by
a process of its own (pocketsphinx_worker.py), which is killed when nobody waits for it any more. It must not import
the engine: that is an optional extra, and large.
"""

import asyncio
import importlib.util
import sys
import zlib
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, Final

import msgspec

from quillgate.v1.transcription_pb2 import (
    Transcription,
    TranscriptionEvent,
    TranscriptionSegment,
    TranscriptionWord,
)
from quillgate_core.catalogue_file import POCKETSPHINX
from quillgate_core.errors import InvalidRequest, Overloaded, ProviderTimeout, ProviderUnavailable
from quillgate_core.transcription_rules import invalid_sound
from quillgate_core.upstream import TranscriptionTask

NAME: Final = POCKETSPHINX
WORKER: Final = (sys.executable, "-I", "-m", "quillgate_core.providers.pocketsphinx_worker")

_LANGUAGE: Final = "english"
_LANGUAGES: Final = frozenset({"en", "en-us", "english"})
_LINE_BYTES: Final = 1024 * 1024


def is_installed() -> bool:
    """Tells whether the extra `speech` is there, without importing it."""
    return all(importlib.util.find_spec(name) is not None for name in ("pocketsphinx", "soundfile"))


class _Segment(msgspec.Struct, frozen=True):
    start: float
    end: float
    text: str
    avg_logprob: float
    words: list[tuple[str, float, float]]


class PocketSphinx:
    """A TranscriptionProvider without network; at most `max_workers` uploads are heard at once.

    Further ones wait `wait_s` seconds for their turn and then get Overloaded; one takes `total_s` seconds at most.
    """

    def __init__(
        self,
        *,
        worker: Sequence[str] = WORKER,
        max_workers: int = 2,
        wait_s: float = 60.0,
        total_s: float = 600.0,
    ) -> None:
        self._worker = tuple(worker)
        self._workers = asyncio.Semaphore(max_workers)
        self._wait_s = wait_s
        self._total_s = total_s

    @property
    def name(self) -> str:
        """The provider's name in the catalogue, errors and ledger."""
        return NAME

    def check_transcription(self, task: TranscriptionTask) -> None:
        """Raises InvalidRequest for another language than English, and for who speaks."""
        language = task.options.language.lower()
        if language and language not in _LANGUAGES:
            text = f"Invalid value: '{language[:100]}'. This model understands only 'en'."
            raise InvalidRequest(text, param="language", code="unsupported_value")
        if task.options.response_format == "diarized_json":
            text = "This model cannot tell speakers apart: response_format 'diarized_json' is not supported."
            raise InvalidRequest(text, param="response_format", code="unsupported_value")

    async def create_transcription(self, task: TranscriptionTask) -> Transcription:
        """Returns what is said; raises InvalidRequest for a file that cannot be decoded."""
        segments: list[_Segment] = []
        duration_s = 0.0
        async with aclosing(self._hear(task)) as heard:
            async for item in heard:
                if isinstance(item, _Segment):
                    segments.append(item)
                else:
                    duration_s = item
        answer = Transcription(text=" ".join(segment.text for segment in segments))
        if task.options.response_format == "verbose_json":
            answer.task, answer.language, answer.duration = "transcribe", _LANGUAGE, duration_s
            wanted = set(task.options.timestamp_granularities) or {"segment"}
            if "segment" in wanted:
                answer.segments.extend(_segment(number, segment) for number, segment in enumerate(segments))
            if "word" in wanted:
                words = (word for segment in segments for word in segment.words)
                answer.words.extend(TranscriptionWord(word=word, start=start, end=end) for word, start, end in words)
        return answer

    async def stream_transcription(self, task: TranscriptionTask) -> AsyncGenerator[list[TranscriptionEvent], None]:
        """Yields what is said between pauses as soon as it is understood."""
        text = ""
        async with aclosing(self._hear(task)) as heard:
            async for item in heard:
                if isinstance(item, _Segment):
                    delta = f" {item.text}" if text else item.text
                    text += delta
                    yield [TranscriptionEvent(type="transcript.text.delta", delta=delta)]
        yield [TranscriptionEvent(type="transcript.text.done", text=text)]

    async def _hear(self, task: TranscriptionTask) -> AsyncGenerator[_Segment | float, None]:
        """Yields the length of the sound in seconds, then what is said; the process is gone when this ends."""
        try:
            async with asyncio.timeout(self._wait_s):
                await self._workers.acquire()
        except TimeoutError:
            raise Overloaded("All recognizers are busy. Please retry shortly.") from None
        try:
            process = await asyncio.create_subprocess_exec(
                *self._worker, str(task.path), stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL, env={}, limit=_LINE_BYTES
            )
            try:
                expire_time = asyncio.get_running_loop().time() + self._total_s
                while (value := await self._read(process, expire_time)).get("done") is None:
                    yield _heard(value)
            finally:
                if process.returncode is None:
                    process.kill()
                await process.wait()
        finally:
            self._workers.release()

    async def _read(self, process: Process, expire_time: float) -> dict[str, Any]:
        assert process.stdout is not None
        try:
            async with asyncio.timeout_at(expire_time):
                line = await process.stdout.readline()
            return dict(msgspec.json.decode(line))
        except TimeoutError:
            raise ProviderTimeout("The sound took too long to understand.", provider=NAME) from None
        except ValueError:  # no line: the process died; or a line that is none of its own
            raise ProviderUnavailable("The recognizer failed.", provider=NAME) from None


def _heard(value: dict[str, Any]) -> _Segment | float:
    if "problem" in value:
        raise invalid_sound()
    return float(value["duration"]) if "duration" in value else msgspec.convert(value, _Segment)


def _segment(number: int, segment: _Segment) -> TranscriptionSegment:
    """Returns the segment with all members that clients insist on."""
    text = segment.text.encode()
    return TranscriptionSegment(
        id=number,
        seek=int(segment.start * 100),
        start=segment.start,
        end=segment.end,
        text=segment.text,
        temperature=0.0,
        avg_logprob=segment.avg_logprob,
        compression_ratio=len(text) / len(zlib.compress(text)),
        no_speech_prob=0.0,
    )
