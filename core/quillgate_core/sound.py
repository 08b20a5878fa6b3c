"""How long an uploaded sound is, read from its container: WAV, FLAC, Ogg, MP3, MP4. Reads a file and nothing else.

It decodes nothing, so that a hostile file can cost a scan and no more. A header that contradicts the file's size is not
believed: a length is what gets charged.
"""

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

MAX_S: Final = 86_400.0
"""Longest length that is believed, in seconds."""

_MAX_BYTES_PER_S: Final = 192_000 * 4 * 8
"""Most bytes a second of sound: 8 channels of 32 bits at 192 kHz. A file is at least its size by this long."""

_MIN_BYTES_PER_S: Final = 1_000
"""Fewest bytes a second that are assumed where the length cannot be read: 8 kbit/s, a low speech codec."""

_TAIL_BYTES: Final = 128 * 1024
_MP3_RATES: Final = (44_100, 48_000, 32_000)
_MP3_KBITS_1: Final = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_MP3_KBITS_2: Final = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_SYNC_BYTES: Final = 64 * 1024
_HEAD_BYTES: Final = 4096


def read_duration_s(path: Path) -> float | None:
    """Returns the length in seconds, None when the container is unknown or does not tell; `path` must not be empty."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            duration_s = _duration_s(data)
        except (struct.error, IndexError, ValueError, ZeroDivisionError, OverflowError):
            return None
        if duration_s is None or not 0 <= duration_s <= MAX_S:
            return None
        return max(duration_s, len(data) / _MAX_BYTES_PER_S)


def bound_s(size_bytes: int) -> float:
    """Returns how long a sound of so many bytes is at most, where its length cannot be read."""
    return size_bytes / _MIN_BYTES_PER_S


def is_text(path: Path) -> bool:
    """Tells whether the file begins as text does: UTF-8 without control characters; no sound does."""
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        if error.reason != "unexpected end of data":
            return False
        text = head[: error.start].decode()  # a character that is cut by the end of the piece
    return all(letter >= " " or letter in "\t\r\n\f" for letter in text)


def _duration_s(data: mmap.mmap) -> float | None:
    if data[:4] in (b"RIFF", b"RF64") and data[8:12] == b"WAVE":
        return _wav_s(data)
    if data[:4] == b"fLaC":
        return _flac_s(data)
    if data[:4] == b"OggS":
        return _ogg_s(data)
    if data[4:8] == b"ftyp":
        return _mp4_s(data)
    return _mp3_s(data)


def _wav_s(data: mmap.mmap) -> float | None:
    """The samples that are there, at the format's own bytes a second."""
    bytes_per_s = 0
    for name, start, size in _riff_chunks(data):
        if name == b"fmt ":
            kind, channels, rate, stated, _, bits = struct.unpack_from("<HHIIHH", data, start)
            # Only compressed formats have a speed that cannot be calculated.
            bytes_per_s = rate * channels * bits // 8 if kind in (1, 3, 0xFFFE) else stated
        elif name == b"data":
            return min(size, len(data) - start) / bytes_per_s
    return None


def _riff_chunks(data: mmap.mmap) -> Iterator[tuple[bytes, int, int]]:
    position = 12
    while position + 8 <= len(data):
        (size,) = struct.unpack_from("<I", data, position + 4)
        # A recorder that streams does not know the size and writes 0 or all ones.
        yield data[position : position + 4], position + 8, size or len(data)
        position += 8 + size + size % 2


def _flac_s(data: mmap.mmap) -> float | None:
    """STREAMINFO: 20 bits of sample rate, 8 that do not matter here, 36 bits of samples (0: unknown)."""
    bits = int.from_bytes(data[18:26], "big")
    rate, samples = bits >> 44, bits & (2**36 - 1)
    return samples / rate if samples else None


def _ogg_s(data: mmap.mmap) -> float | None:
    """The position that the last page states, at the rate of the first stream."""
    body = data[27 + data[26] : 27 + data[26] + 64]
    skipped = 0
    if body[:8] == b"OpusHead":
        rate = 48_000
        (skipped,) = struct.unpack_from("<H", body, 10)
    elif body[:7] == b"\x01vorbis":
        (rate,) = struct.unpack_from("<I", body, 12)
    elif body[:5] == b"\x7fFLAC":
        rate = int.from_bytes(body[27:30], "big") >> 4
    else:
        return None
    last = data.rfind(b"OggS", max(0, len(data) - _TAIL_BYTES))
    (samples,) = struct.unpack_from("<q", data, last + 6)
    return max(0, samples - skipped) / rate if last > 0 and samples >= 0 else None


def _mp4_s(data: mmap.mmap) -> float | None:
    """The movie header's duration; a file that is still being written has 0."""
    movie = _box(data, 0, len(data), b"moov")
    header = None if movie is None else _box(data, *movie, b"mvhd")
    if header is None:
        return None
    start = header[0]
    layout = ">IQ" if data[start] == 1 else ">II"
    scale, duration = struct.unpack_from(layout, data, start + (20 if data[start] == 1 else 12))
    return duration / scale if duration else None


def _box(data: mmap.mmap, position: int, end: int, wanted: bytes) -> tuple[int, int] | None:
    """Finds a box among its siblings and returns where its content begins and ends."""
    while position + 8 <= end:
        size, name = struct.unpack_from(">I4s", data, position)
        head = 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, position + 8)
            head = 16
        size = size or end - position
        if size < head:
            return None
        if name == wanted:
            return position + head, min(position + size, end)
        position += size
    return None


def _mp3_s(data: mmap.mmap) -> float | None:
    """The sum of all frames: headers that tell a length are often wrong, and absent from constant rates."""
    position = _after_id3(data)
    duration_s, misses, frames = 0.0, 0, 0
    while position + 4 <= len(data) and misses < _SYNC_BYTES:
        size, length_s = _mp3_frame(data, position)
        if size:
            duration_s, frames = duration_s + length_s, frames + 1
            position += size
        else:
            position, misses = position + 1, misses + 1
    return duration_s if frames > 1 and frames * 16 > misses else None


def _after_id3(data: mmap.mmap) -> int:
    if data[:3] != b"ID3":
        return 0
    sizes = data[6:10]
    return 10 + (sizes[0] << 21 | sizes[1] << 14 | sizes[2] << 7 | sizes[3])


def _mp3_frame(data: mmap.mmap, position: int) -> tuple[int, float]:
    """Returns the bytes and seconds of a layer 3 frame, (0, 0) where there is none."""
    first, second, third = data[position], data[position + 1], data[position + 2]
    version, index, rate_index = (second >> 3) & 3, third >> 4, (third >> 2) & 3
    if first != 0xFF or second & 0xE6 != 0xE2 or version == 1 or index in (0, 15) or rate_index == 3:
        return 0, 0.0
    is_first = version == 3
    rate = _MP3_RATES[rate_index] // {3: 1, 2: 2, 0: 4}[version]
    bits = (_MP3_KBITS_1 if is_first else _MP3_KBITS_2)[index] * 1000
    samples = 1152 if is_first else 576
    return samples // 8 * bits // rate + (third >> 1 & 1), samples / rate
