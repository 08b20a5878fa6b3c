"""A ledger whose database clock stands still where a test puts it, one second before a UTC midnight at first."""

from typing import Final, LiteralString

import psycopg
from fakes.books import Books

from quillgate_core.reservation import Outcome, Step
from quillgate_core.storage.ledger import Ledger

TEST_CLOCK: Final[LiteralString] = "(SELECT now FROM test_clock)"


class Midnight:
    """A database clock that stands still where it is put."""

    def __init__(self, books: Books, connection: psycopg.Connection) -> None:
        self._books = books
        self._connection = connection
        self._ledger = Ledger(clock=TEST_CLOCK)
        books.run("CREATE TABLE test_clock (now timestamptz)")
        books.run("INSERT INTO test_clock VALUES ('2030-05-01 23:59:59Z')")

    def put(self, now: str) -> None:
        """Move the clock."""
        self._books.run("UPDATE test_clock SET now = CAST(:now AS timestamptz)", now=now)

    def apply(self, *steps: Step) -> list[Outcome]:
        """Apply a batch at the clock's time."""
        return self._ledger.apply(self._connection, steps)
