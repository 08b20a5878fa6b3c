"""Ends of reservations on this machine's disk, for as long as the database cannot take them.

One append-only file a process, `<instance id>.jsonl` in a private directory, locked as long as its process lives. Each
line carries a checksum of its step, so that a line that a crash tore is known. A file whose lock is free was left by a
process that died: `left_journals` finds those, for somebody to land what they hold. Landing an end twice changes
nothing, so a line too many is harmless. This module must not know the ledger.
"""

import contextlib
import fcntl
import logging
import os
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from io import FileIO
from pathlib import Path
from typing import Final, Literal, TypeAlias

import msgspec

from quillgate_core import failpoint as places
from quillgate_core.failpoint import Failpoint, no_failpoint
from quillgate_core.reservation import Release, Settle

logger = logging.getLogger(__name__)

SUFFIX: Final = ".jsonl"
MAX_JOURNAL_BYTES: Final = 256 * 1024 * 1024

End: TypeAlias = Settle | Release


class _Line(msgspec.Struct):
    """One line: the step as it was encoded, and the CRC-32 of those bytes."""

    kind: Literal["settle", "release"]
    crc32: int
    step: msgspec.Raw


class JournalDamaged(Exception):
    """A line that was written whole cannot be read any more."""


def _create(path: Path) -> FileIO:
    return FileIO(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600), "r+b")


class Journal:
    """The journal of this process; `open` and `close` frame its life, and any thread may call.

    It holds an end once, and there are no more ends than open reservations; while the database comes and goes, lines
    of what has landed stay until all has, up to `max_bytes`. `create` makes and opens the file, for tests to replace.
    """

    def __init__(
        self,
        path: Path,
        *,
        create: Callable[[Path], FileIO] = _create,
        max_bytes: int = MAX_JOURNAL_BYTES,
        failpoint: Failpoint = no_failpoint,
    ) -> None:
        self._path = path
        self._create = create
        self._failpoint = failpoint
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._file: FileIO | None = None
        self._size = 0

    def open(self) -> None:
        """Make the file, empty and locked, before any row can be open; raises OSError where that cannot be.

        It gets its name only when it is locked, so nobody takes it for a dead process's.
        """
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = self._path.with_suffix(".new")
        file = self._create(draft)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            draft.rename(self._path)
            _sync_directory(self._path.parent)
        except BaseException:
            file.close()
            raise
        self._file = file

    def append(self, ends: Sequence[End]) -> None:
        """Put the ends on disk, durably; raises OSError, and has then added none of them."""
        lines = b"".join(map(_encode, ends))
        with self._lock:
            if self._file is None:
                raise OSError("the journal is not open")
            if self._size + len(lines) > self._max_bytes:
                raise OSError("the journal is full")
            try:
                _write_all(self._file, lines)
                self._failpoint(places.JOURNAL_WRITTEN)
                os.fsync(self._file.fileno())
                self._failpoint(places.JOURNALED)
            except OSError:
                self._file.truncate(self._size)
                raise
            self._size += len(lines)

    def clear(self) -> None:
        """Empty the file, when all that it holds has landed; raises OSError."""
        with self._lock:
            if self._file is not None:
                self._file.truncate(0)
                self._size = 0

    def close(self, *, keep: bool = False) -> None:
        """Give the file up, and remove it unless the next start shall `keep` to it; a second call does nothing."""
        with self._lock:
            if self._file is None:
                return
            if not keep:
                self._path.unlink(missing_ok=True)
            self._file.close()
            self._file = None


class LeftJournal:
    """A dead process's journal, locked by this one; to be closed in the end, removed or not."""

    def __init__(self, path: Path, file: FileIO) -> None:
        self._path = path
        self._file = file

    @property
    def instance_id(self) -> str:
        """The core instance that died."""
        return self._path.stem

    def read(self) -> tuple[list[End], bool]:
        """Return the ends that can be read, and whether that is all: a torn last line was never promised to anybody."""
        ends: list[End] = []
        is_whole = True
        self._file.seek(0)
        *lines, _torn = self._file.readall().split(b"\n")
        for line in lines:
            try:
                ends.append(_decode(line))
            except JournalDamaged:
                is_whole = False
        return ends, is_whole

    def remove(self) -> None:
        """Delete the file: all that it holds has landed."""
        self._path.unlink(missing_ok=True)

    def set_aside(self) -> Path:
        """Give a damaged file a name under which nobody looks again but a person, and return it."""
        aside = self._path.with_suffix(".corrupt")
        self._path.rename(aside)
        return aside

    def close(self) -> None:
        """Give up the lock."""
        self._file.close()


def left_journals(directory: Path) -> Iterator[LeftJournal]:
    """Find the journals of dead processes, each locked and to be closed by the caller; those of live ones stay."""
    for path in sorted(directory.glob(f"*{SUFFIX}")):
        left = _take_over(path)
        if left is not None:
            yield left


def _take_over(path: Path) -> LeftJournal | None:
    """Lock the file, unless its process lives or another one was faster."""
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(FileIO(path, "r+b"))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_still_there = os.path.samestat(os.fstat(file.fileno()), path.stat())
        except (BlockingIOError, FileNotFoundError):
            return None
        except OSError as error:
            logger.error("the journal %s cannot be opened: %s", path, error.strerror)
            return None
        if not is_still_there:
            return None
        stack.pop_all()
        return LeftJournal(path, file)


def _encode(end: End) -> bytes:
    """Make an end's line; one that cannot be written, with a lone surrogate in a text, is left out and logged."""
    try:
        step = msgspec.json.encode(end)
    except ValueError as error:
        logger.error("the end of %s is kept in memory only: %s", end.request_id, error)
        return b""
    kind: Literal["settle", "release"] = "settle" if isinstance(end, Settle) else "release"
    return msgspec.json.encode(_Line(kind, zlib.crc32(step), msgspec.Raw(step))) + b"\n"


def _decode(line: bytes) -> End:
    try:
        read = msgspec.json.decode(line, type=_Line)
        if zlib.crc32(read.step) == read.crc32:
            if read.kind == "settle":
                return msgspec.json.decode(read.step, type=Settle)
            return msgspec.json.decode(read.step, type=Release)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        pass
    raise JournalDamaged


def _write_all(file: FileIO, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[file.write(view) :]


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
