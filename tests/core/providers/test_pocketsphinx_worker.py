"""The recognizer's resampler, which must neither lose nor invent time."""

from typing import Any

import pytest

np: Any = pytest.importorskip("numpy")
pytest.importorskip("pocketsphinx")
pytest.importorskip("soundfile")
worker: Any = pytest.importorskip("quillgate_core.providers.pocketsphinx_worker")


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000])
def test_tone_keeps_its_pitch_and_length(rate: int) -> None:
    """A tone of 440 Hz is still one, whatever rate it comes at and in what pieces."""
    resampler = worker.Resampler(rate)
    tone = np.sin(2 * np.pi * 440 * np.arange(2 * rate) / rate)
    pieces = [resampler.take(piece) for piece in np.array_split(tone, 7)]
    heard = np.concatenate(pieces)
    assert abs(len(heard) - 2 * worker.RATE) <= 2
    spectrum = np.abs(np.fft.rfft(heard))
    assert np.argmax(spectrum) * worker.RATE / len(heard) == pytest.approx(440, abs=1)


def test_no_aliases() -> None:
    """A tone above what 16 kHz can carry is silenced rather than heard as another."""
    resampler = worker.Resampler(48_000)
    heard = resampler.take(np.sin(2 * np.pi * 12_000 * np.arange(48_000) / 48_000))
    assert np.abs(heard[200:]).max() < 0.01
