"""Counts what Python does, in instructions and calls: the same on every machine, however busy it is.

An instruction is one of CPython's byte code; a call is one of a Python or a C function. What a C function does inside
is not seen, so work that is moved into C looks like none: the guard watches Python, and `make bench` the clock.
"""

import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

CAN_COUNT = sys.version_info < (3, 12)
"""Whether this Python lets instructions be counted: 3.12.1 dies of it, and 3.13.0 leaves most of them out."""


@dataclass(frozen=True)
class Work:
    """How much was done."""

    instructions: float = 0
    calls: float = 0

    def __sub__(self, other: "Work") -> "Work":
        return Work(self.instructions - other.instructions, self.calls - other.calls)

    def __truediv__(self, parts: int) -> "Work":
        return Work(self.instructions / parts, self.calls / parts)


class WorkCounter:
    """Counts between `begin` and `end`, in the threads that were told to `watch`; it must know a thread by its id."""

    def __init__(self) -> None:
        self._threads: set[int] = set()
        self._counting = False
        self._instructions = 0
        self._calls = 0

    def hook_new_threads(self) -> None:
        """Makes threads that start from now on ready to be watched."""
        threading.settrace(self._trace)
        threading.setprofile(self._profile)

    def leave_new_threads(self) -> None:
        """Leaves threads that start from now on alone."""
        threading.settrace(None)
        threading.setprofile(None)

    def hook(self) -> None:
        """Makes the calling thread ready to be watched."""
        sys.setprofile(self._profile)
        sys.settrace(self._trace)

    def unhook(self) -> None:
        """Leaves the calling thread alone again."""
        sys.settrace(None)
        sys.setprofile(None)

    def watch(self, thread_id: int) -> None:
        """Counts this thread as well."""
        self._threads.add(thread_id)

    def begin(self) -> None:
        """Starts to count from nothing."""
        self._instructions = self._calls = 0
        self._counting = True

    def end(self) -> Work:
        """Stops and returns what was counted."""
        self._counting = False
        return Work(self._instructions, self._calls)

    def of(self, call: Callable[[], Any]) -> Work:
        """Returns the work of one call in this thread, after a call that fills caches."""
        call()
        self.watch(threading.get_ident())
        self.hook()
        self.begin()
        try:
            call()
            return self.end()
        finally:
            self.unhook()

    def _trace(self, frame: Any, event: str, _: Any) -> Any:
        """Is called when a Python function is entered or resumed."""
        if not self._counting or threading.get_ident() not in self._threads:
            return None
        frame.f_trace_lines = False
        frame.f_trace_opcodes = True
        return self._step

    def _step(self, _: Any, event: str, __: Any) -> Any:
        if event == "opcode" and self._counting:
            self._instructions += 1
        return self._step

    def _profile(self, _: Any, event: str, __: Any) -> None:
        if self._counting and event in ("call", "c_call") and threading.get_ident() in self._threads:
            self._calls += 1
