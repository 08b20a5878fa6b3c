"""Runs the ledger's statements over libpq: prepared once for each connection, all of a round trip sent at once.

psycopg's cursors convert, look up and check each statement anew, in Python, and two transactions of five statements
belong to each request. This needs a tenth of that for the same statements. Everything else stays psycopg's: the
connection, how values are read, and its errors. It must not know what the statements mean.
"""

import select
from collections import deque
from collections.abc import Iterable
from datetime import date
from types import TracebackType
from typing import Any, Final, Self
from uuid import uuid4

import psycopg
from psycopg.adapt import Transformer
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus, Format
from psycopg.pq.abc import PGresult

MAX_PREPARED: Final = 100
"""Most statements that the server keeps for a connection; each day brings some new ones."""

_GOOD: Final = (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK, ExecStatus.PIPELINE_SYNC)

Row = tuple[Any, ...]


class LedgerPipeline:
    """One connection in autocommit; each `with` block is a transaction, all of which may be sent before any is read.

    Parameters are `$1`, `$2` …, given as the text that PostgreSQL reads. The end of the block commits. Raises
    psycopg.Error as psycopg does; the connection must then be closed.
    """

    def __init__(self, connection: psycopg.Connection) -> None:
        self.connection = connection
        self._libpq = connection.pgconn
        self._transformer = Transformer(connection)
        self._names: dict[bytes, bytes] = {}
        self._prefix = f"ledger_{uuid4().hex[:12]}_"  # others may have prepared theirs on the same connection
        self._prepared = 0
        self._expected: deque[bool] = deque()
        self._is_flushed = True

    def __enter__(self) -> Self:
        self._libpq.enter_pipeline_mode()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, psycopg.Error):
            return
        self._libpq.pipeline_sync()
        self._flush()
        while self._expected:
            self._receive()
        self._next_result()  # the end of the transaction; a commit that fails is told here
        self._libpq.exit_pipeline_mode()

    def execute(self, statement: bytes, *parameters: bytes) -> None:
        """Sends a statement, perhaps only with the next ones; nobody wants its rows."""
        self._send(statement, parameters)
        self._expect(has_rows=False)

    def query(self, statement: bytes, *parameters: bytes) -> None:
        """Sends a statement, perhaps only with the next ones; `rows` returns what it finds, in turn."""
        self._send(statement, parameters)
        self._expect(has_rows=True)

    def _send(self, statement: bytes, parameters: tuple[bytes, ...]) -> None:
        name = self._names.get(statement) or self._prepare(statement)
        if b"\0" in b"".join(parameters):
            raise psycopg.DataError("a text must not contain NUL")  # libpq would cut it off there
        self._libpq.send_query_prepared(name, parameters, result_format=Format.BINARY)

    def rows(self) -> list[Row]:
        """Returns the rows of the first query that was sent and not asked for yet."""
        if not self._is_flushed:
            self._libpq.send_flush_request()
            self._flush()
        while not self._expected[0]:
            self._receive()
        result = self._receive()
        if result.status != ExecStatus.TUPLES_OK or not result.ntuples:
            return []
        self._transformer.set_pgresult(result)
        return self._transformer.load_rows(0, result.ntuples, tuple)

    def _expect(self, *, has_rows: bool) -> None:
        self._expected.append(has_rows)
        self._is_flushed = False

    def _prepare(self, statement: bytes) -> bytes:
        while len(self._names) >= MAX_PREPARED:
            oldest = next(iter(self._names))
            self._libpq.send_query_params(b"DEALLOCATE " + self._names.pop(oldest), None)
            self._expect(has_rows=False)
        self._prepared += 1
        name = self._names[statement] = f"{self._prefix}{self._prepared}".encode()
        self._libpq.send_prepare(name, statement)
        self._expect(has_rows=False)
        return name

    def _receive(self) -> PGresult:
        """Returns the result of what was sent first, which libpq ends with None."""
        self._expected.popleft()
        result = self._next_result()
        if self._libpq.is_busy():
            self._wait()
        if self._libpq.get_result() is not None:
            raise psycopg.OperationalError("the server sent more than one result")
        return result

    def _next_result(self) -> PGresult:
        if self._libpq.is_busy():
            self._wait()
        result = self._libpq.get_result()
        if result is None:
            raise psycopg.OperationalError("the server sent no result")
        if result.status not in _GOOD:
            raise error_from_result(result)
        return result

    def _wait(self) -> None:
        """Waits until a result can be taken at once: libpq itself would wait without letting other threads run."""
        while self._libpq.is_busy():
            self._poll(select.POLLIN)
            self._libpq.consume_input()

    def _flush(self) -> None:
        """Sends all, and reads meanwhile what comes: a server that nobody reads from stops to read itself."""
        while self._libpq.flush():
            if self._poll(select.POLLIN | select.POLLOUT) & select.POLLIN:
                self._libpq.consume_input()
        self._is_flushed = True

    def _poll(self, events: int) -> int:
        poll = select.poll()
        poll.register(self._libpq.socket, events)
        return poll.poll()[0][1]


def texts(items: Iterable[str]) -> bytes:
    """Returns a parameter of type text[]."""
    return ("{" + ",".join(map(_quoted, items)) + "}").encode()


def dates(days: Iterable[date]) -> bytes:
    """Returns a parameter of type date[]."""
    return ("{" + ",".join(day.isoformat() for day in days) + "}").encode()


def day_text(day: date) -> bytes:
    """Returns a parameter of type date."""
    return day.isoformat().encode()


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
