"""A journal in memory: what is in it, what was ever, and a disk that is full when a test says so."""

import errno
import threading
from collections.abc import Sequence

from quillgate_core.reservation import Release, Settle


class FakeEndJournal:
    """Remembers the request ids of the ends; `has_grown` is set by each append."""

    def __init__(self) -> None:
        self.held: list[str] = []
        self.history: list[str] = []
        self.clears = 0
        self.is_full = False
        self.has_grown = threading.Event()

    def append(self, ends: Sequence[Settle | Release]) -> None:
        """Remember the ends."""
        if self.is_full:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.held += [end.request_id for end in ends]
        self.history += [end.request_id for end in ends]
        self.has_grown.set()

    def clear(self) -> None:
        """Forget them."""
        if self.is_full:
            raise OSError(errno.EIO, "Input/output error")
        self.held.clear()
        self.clears += 1
