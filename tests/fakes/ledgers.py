"""Stand-ins for the ledger behind a writer: one that waits, fails or forgets to answer when a test says so."""

import threading
from collections.abc import Callable, Sequence

import psycopg

from quillgate_core.reservation import Outcome, Step

Apply = Callable[[psycopg.Connection, Sequence[Step]], list[Outcome]]


class FakeConnection(psycopg.Connection[tuple[object, ...]]):
    """A connection to nowhere, which can only be closed."""

    def __init__(self) -> None:
        self.is_closed = False

    def close(self) -> None:
        """Note the end."""
        self.is_closed = True

    def __del__(self) -> None:
        """Leave nothing to warn about."""


class FakeLedger:
    """Runs each batch through `apply`, after the gate is open, and raises what `failures` and `losses` hold.

    A failure comes instead of applying, a loss after it: the batch is committed and nobody hears of it.
    """

    def __init__(self, apply: Apply) -> None:
        self._apply = apply
        self.gate = threading.Event()
        self.gate.set()
        self.has_begun = threading.Event()
        self.failures: list[Exception] = []
        self.losses: list[Exception] = []
        self.batches: list[list[Step]] = []

    def apply(self, connection: psycopg.Connection, steps: Sequence[Step]) -> list[Outcome]:
        """Apply a batch as the test has arranged it."""
        self.batches.append(list(steps))
        self.has_begun.set()
        self.gate.wait()
        if self.failures:
            raise self.failures.pop(0)
        outcomes = self._apply(connection, steps)
        if self.losses:
            raise self.losses.pop(0)
        return outcomes
