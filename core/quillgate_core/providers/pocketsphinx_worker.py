"""A process that hears one sound file and writes what it hears to standard output, one JSON object a line.

    python -I -m quillgate_core.providers.pocketsphinx_worker FILE

    {"duration": 1.98}                                                          first
    {"start": 0.3, "end": 1.6, "text": "hello world", "avg_logprob": -0.6, "words": [["hello", 0.33, 0.71], …]}
    {"problem": "format"}                                                       instead of all the above: no sound
    {"done": true}                                                              last, when the file was heard to its end

A process of its own, because the decoder holds Python's lock, cannot be interrupted, and reads whatever a stranger
uploaded: it is started without environment and with bounds on time and memory. It must not import the rest of core.
"""

import json
import math
import os
import resource
import sys
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import soundfile
from pocketsphinx import Decoder, Endpointer

RATE: Final = 16_000
"""Samples a second that the acoustic model was trained with."""

MAX_SEGMENT_S: Final = 30.0
"""Speech without a pause is cut after so long."""

_FRAMES_PER_S: Final = 100
_SILENCE_S: Final = 0.5
_SILENCE_BYTES: Final = int(_SILENCE_S * RATE) * 2
_TAPS: Final = 129
_BLOCK_SAMPLES: Final = 1_000_000
_MEMORY_BYTES: Final = 2 * 1024**3
_CPU_S: Final = 1_200

Samples = np.ndarray[Any, np.dtype[np.float64]]


def main(path: str) -> None:
    """Hears the file."""
    _limit()
    try:
        with soundfile.SoundFile(path) as sound:
            _say({"duration": sound.frames / sound.samplerate})
            for segment in _segments(_pcm(sound)):
                _say(segment)
    except soundfile.LibsndfileError:
        _say({"problem": "format"})
        return
    _say({"done": True})


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_S, _CPU_S))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(5)  # whoever answers requests goes first


def _say(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def _pcm(sound: soundfile.SoundFile) -> Iterator[bytes]:
    """Yields the sound as 16-bit mono at RATE, about a second at a time."""
    yield bytes(_SILENCE_BYTES)  # without a moment's rest before it, the first word is misheard
    resampler = Resampler(sound.samplerate)
    block = max(1, min(sound.samplerate, _BLOCK_SAMPLES // sound.channels))
    while len(samples := sound.read(block, dtype="float32", always_2d=True)):
        yield _as_pcm(resampler.take(samples.mean(axis=1)))
    yield _as_pcm(resampler.take(np.zeros(_TAPS)))
    yield bytes(_SILENCE_BYTES)


def _as_pcm(samples: Samples) -> bytes:
    return bytes((np.clip(np.nan_to_num(samples), -1, 1) * 32_767).astype("<i2").tobytes())


class Resampler:
    """Brings samples to RATE: a low-pass filter against aliases, then the straight line between neighbours."""

    def __init__(self, rate: int) -> None:
        cut = 0.45 * min(rate, RATE) / rate
        offsets = np.arange(_TAPS) - _TAPS // 2
        self._filter = 2 * cut * np.sinc(2 * cut * offsets) * np.hamming(_TAPS)
        self._step = rate / RATE
        self._before = np.zeros(_TAPS - 1)
        self._last = np.zeros(1)
        self._position = 1.0

    def take(self, samples: Samples) -> Samples:
        """Returns what the next samples add."""
        joined = np.concatenate((self._before, samples))
        self._before = joined[-(_TAPS - 1) :]
        line = np.concatenate((self._last, np.convolve(joined, self._filter, "valid")))
        count = max(0, math.ceil((len(line) - 1 - self._position) / self._step))
        places = self._position + np.arange(count) * self._step
        self._position += count * self._step - (len(line) - 1)
        self._last = line[-1:]
        return np.asarray(np.interp(places, np.arange(len(line)), line))


def _segments(pieces: Iterator[bytes]) -> Iterator[dict[str, Any]]:
    """Yields what is said between pauses, with times in seconds from the beginning of the file."""
    endpointer = Endpointer(sample_rate=RATE)
    listener = Listener()
    waiting = bytearray()
    for piece in pieces:
        waiting += piece
        while len(waiting) >= endpointer.frame_bytes:
            frame = bytes(waiting[: endpointer.frame_bytes])
            del waiting[: endpointer.frame_bytes]
            speech = endpointer.process(frame)
            if speech is not None:
                yield from listener.hear(speech, endpointer.speech_start, is_last=not endpointer.in_speech)
    speech = endpointer.end_stream(bytes(waiting)) if endpointer.in_speech else None
    yield from listener.hear(speech or b"", endpointer.speech_start, is_last=True)


class Listener:
    """Collects speech and decodes a stretch of it at once, which the decoder understands better than pieces."""

    def __init__(self) -> None:
        self._decoder = Decoder(samprate=RATE, loglevel="FATAL")
        self._start_s = 0.0
        self._speech = bytearray()

    def hear(self, speech: bytes, start_s: float, *, is_last: bool) -> Iterator[dict[str, Any]]:
        """Takes the next piece of a stretch of speech that began at `start_s`."""
        if speech and not self._speech:
            self._start_s = max(start_s, self._start_s)
        self._speech += speech
        heard_s = len(self._speech) / 2 / RATE
        if self._speech and (is_last or heard_s >= MAX_SEGMENT_S):
            self._decoder.start_utt()
            self._decoder.process_raw(bytes(self._speech), full_utt=True)
            self._decoder.end_utt()
            segment = self._segment()
            self._start_s += heard_s
            self._speech.clear()
            if segment is not None:
                yield segment

    def _segment(self) -> dict[str, Any] | None:
        words, logprobs = [], []
        for part in self._decoder.seg() or ():
            if not part.word[0].isalpha() and part.word[0] != "'":  # <s>, <sil>, [NOISE], ++BREATH++
                continue
            start_s = max(0.0, self._start_s - _SILENCE_S + part.start_frame / _FRAMES_PER_S)
            end_s = max(0.0, self._start_s - _SILENCE_S + (part.end_frame + 1) / _FRAMES_PER_S)
            words.append((part.word.partition("(")[0], round(start_s, 2), round(end_s, 2)))
            logprobs.append(min(0.0, math.log(max(part.prob, 1e-9))))
        if not words:
            return None
        return {
            "start": words[0][1],
            "end": words[-1][2],
            "text": " ".join(word for word, _, _ in words),
            "avg_logprob": sum(logprobs) / len(logprobs),
            "words": words,
        }


if __name__ == "__main__":
    main(sys.argv[1])
