"""The length of a sound is read from its container, and a header that lies is not believed."""

import struct
from pathlib import Path

import pytest
from fakes.sounds import MIB, wav, wav_of_size

from quillgate_core.sound import bound_s, is_text, read_duration_s


def duration_of(data: bytes, directory: Path) -> float | None:
    """Writes a file and reads its length."""
    path = directory / "sound"
    path.write_bytes(data)
    return read_duration_s(path)


def flac(samples: int, rate: int = 48_000) -> bytes:
    """The head of a FLAC file."""
    return b"fLaC\0\0\0\x22" + bytes(10) + (rate << 44 | 7 << 36 | samples).to_bytes(8, "big") + bytes(24)


def ogg(position: int, head: bytes = b"OpusHead\x01\x01\x38\x01") -> bytes:
    """The first and the last page of an Ogg file."""
    first = b"OggS\0\2" + struct.pack("<q", 0) + bytes(12) + b"\1" + bytes([64]) + head.ljust(64, b"\0")
    return first + b"OggS\0\4" + struct.pack("<q", position) + bytes(12) + b"\1\1\0"


def mp4(duration: int, scale: int = 1000) -> bytes:
    """The boxes of an MP4 file that tell its length."""
    header = struct.pack(">I4sIIIII", 28, b"mvhd", 0, 0, 0, scale, duration)
    return struct.pack(">I4s8s", 16, b"ftyp", b"M4A ") + struct.pack(">I4s", 8 + len(header), b"moov") + header


def mp3(frames: int) -> bytes:
    """Frames of 128 kbit/s at 44.1 kHz after an ID3 tag."""
    return b"ID3\3\0\0\0\0\0\x0a" + bytes(10) + (b"\xff\xfb\x90\x00" + bytes(413)) * frames


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (wav(2.5), 2.5),
        (flac(96_000), 2.0),
        (ogg(312 + 48_000 * 3), 3.0),
        (mp4(4_500), 4.5),
        (mp3(100), 100 * 1152 / 44_100),
    ],
    ids=["wav", "flac", "ogg", "mp4", "mp3"],
)
def test_length(tmp_path: Path, data: bytes, expected: float) -> None:
    """Each container tells its length in its own way."""
    assert duration_of(data, tmp_path) == pytest.approx(expected)


def test_unfinished_wav(tmp_path: Path) -> None:
    """A recorder that could not go back to write the size is measured by what is there."""
    sound = bytearray(wav(2.0))
    sound[40:44] = b"\xff\xff\xff\xff"
    assert duration_of(bytes(sound), tmp_path) == pytest.approx(2.0)
    sound[40:44] = b"\0\0\0\0"
    assert duration_of(bytes(sound), tmp_path) == pytest.approx(2.0)


def test_lying_header(tmp_path: Path) -> None:
    """A file is at least as long as its size at the highest quality, and a stated speed of a WAV is not believed."""
    long_s = duration_of(flac(1) + bytes(25 * MIB), tmp_path)
    assert long_s is not None and long_s > 4
    sound = bytearray(wav_of_size(48_044))
    sound[28:32] = struct.pack("<I", 2**31)
    assert duration_of(bytes(sound), tmp_path) == pytest.approx(1.0)


@pytest.mark.parametrize(
    "data",
    [
        b"x",
        b"RIFF",
        b"RIFF\0\0\0\0WAVE",
        b"RIFF\0\0\0\0WAVEdata\4\0\0\0abcd",
        b"fLaC",
        flac(0),
        b"OggS",
        b"\0\0\0\x10ftyp",
        mp4(0),
        mp4(5, scale=0),
        b"\xff\xfb",
        b"\xff" * 999,
        b"\x1a\x45\xdf\xa3" + bytes(5000),
        flac(2**36 - 1, rate=1),
    ],
)
def test_unknown_length(tmp_path: Path, data: bytes) -> None:
    """A file that is broken, of another kind or too long to believe has no known length; nothing is raised."""
    assert duration_of(data, tmp_path) is None


def test_bound() -> None:
    """Where the length is unknown, 25 MiB stand for at most about seven hours."""
    assert 7 * 3600 < bound_s(25 * MIB) < 8 * 3600


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"Some text,\nwith lines.", True),
        ("é".encode() * 3000, True),
        (b"a" + "é".encode() * 3000, True),
        (wav(0.1), False),
        (mp3(2), False),
        (b"\xff\xfe\xff", False),
    ],
)
def test_text(tmp_path: Path, data: bytes, expected: bool) -> None:
    """A text is told from a sound, also when a character is cut by the end of what is looked at."""
    path = tmp_path / "file"
    path.write_bytes(data)
    assert is_text(path) is expected
