"""A file on a disk that a test fills."""

import errno
import os
from io import FileIO
from pathlib import Path
from typing import Any


class FullDisk:
    """Makes files that take `room` bytes in all, and then say that the disk is full, after a part was written."""

    def __init__(self, room: int = 10**9) -> None:
        self.room = room

    def create(self, path: Path) -> FileIO:
        """Make and open a file."""
        return _File(self, path)


class _File(FileIO):
    def __init__(self, disk: FullDisk, path: Path) -> None:
        super().__init__(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600), "r+b")
        self._disk = disk

    def write(self, content: Any, /) -> int:
        """Write what fits."""
        if self._disk.room <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = super().write(bytes(content)[: self._disk.room])
        self._disk.room -= written
        return written
