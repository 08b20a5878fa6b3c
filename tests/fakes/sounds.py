"""Sound files for tests, made without any library: silence in a WAV of a chosen length or size."""

import io
import struct
import wave

MIB = 1024 * 1024
HEAD_BYTES = 44
"""Bytes of a WAV before its samples."""


def wav(duration_s: float, *, rate: int = 8_000) -> bytes:
    """Silence of a length, 8 bits mono."""
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(1)
        sound.setframerate(rate)
        sound.writeframes(b"\x80" * round(duration_s * rate))
    return file.getvalue()


def wav_of_size(size: int, *, rate: int = 48_000) -> bytes:
    """Silence in a file of exactly so many bytes."""
    samples = size - HEAD_BYTES
    head = b"RIFF" + struct.pack("<I", size - 8) + b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, rate, rate, 1, 8)
    return head + b"data" + struct.pack("<I", samples) + b"\x80" * samples
