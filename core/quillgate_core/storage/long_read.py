"""Reads that may take longer than a request may wait: sums over a month, pages of an export."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sqlalchemy import Connection, Engine, text

from quillgate_core.storage.engine import database_errors

LONG_STATEMENT_TIMEOUT_S: Final = 30

_SET_TIMEOUT: Final = text(f"SET LOCAL statement_timeout = '{LONG_STATEMENT_TIMEOUT_S}s'")


@contextmanager
def long_read(engine: Engine) -> Iterator[Connection]:
    """Open a transaction whose statements may take 30 s each; callers must bound how many they run at once.

    Raises Overloaded as all stores do.
    """
    with database_errors(), engine.connect() as connection:
        connection.execute(_SET_TIMEOUT)
        yield connection
