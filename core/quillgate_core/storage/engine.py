"""The SQLAlchemy engine, and what all stores share around it: limits, durability and the translation of failures.

It knows connections, not tables. Nothing here may put SQL, parameters or a database password into an error.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import URL, Engine, create_engine, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from quillgate_core.errors import Overloaded
from quillgate_core.storage.startup import StartupError

_logger = logging.getLogger(__name__)

POOL_SIZE = 8
POOL_WAIT_S = 2
CONNECT_TIMEOUT_S = 5
STATEMENT_TIMEOUT_MS = 2_000
LOCK_TIMEOUT_MS = 1_000
IDLE_IN_TRANSACTION_TIMEOUT_MS = 10_000
POOL_RECYCLE_S = 1_800


def make_engine(database_url: str, *, pool_size: int = POOL_SIZE, pool_wait_s: float = POOL_WAIT_S) -> Engine:
    """Make the engine for a `postgresql://` or `postgres://` URL; opens no connection yet.

    `pool_wait_s` is how long a caller waits for one of the `pool_size` connections.

    Raises StartupError, without repeating the URL (it may hold a password), if that is not a PostgreSQL URL.
    """
    return create_engine(
        _driver_url(database_url),
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=pool_wait_s,
        pool_pre_ping=True,
        pool_recycle=POOL_RECYCLE_S,
        pool_use_lifo=True,
        hide_parameters=True,
        connect_args=connect_arguments(database_url),
    )


def single_statements(engine: Engine) -> Engine:
    """Return the same engine for statements that stand alone, with no transaction around them.

    That spares two round trips. And psycopg forgets at a rollback, which is how reading ends otherwise, what it has
    prepared: a read by key took the server 0.17 ms, and 0.04 like this.
    """
    return engine.execution_options(isolation_level="AUTOCOMMIT")


def connect_arguments(database_url: str) -> dict[str, str | int]:
    """Return what every connection is opened with, for a caller that connects with the driver itself.

    Options in the URL stay, ours come after them and win.
    """
    settings = {
        "statement_timeout": STATEMENT_TIMEOUT_MS,
        "lock_timeout": LOCK_TIMEOUT_MS,
        "idle_in_transaction_session_timeout": IDLE_IN_TRANSACTION_TIMEOUT_MS,
        "timezone": "UTC",
    }
    given = _driver_url(database_url).query.get("options", "")
    own = " ".join(f"-c {name}={value}" for name, value in settings.items())
    options = f"{given if isinstance(given, str) else ' '.join(given)} {own}".strip()
    return {"connect_timeout": CONNECT_TIMEOUT_S, "application_name": "quillgate", "options": options}


def _driver_url(database_url: str) -> URL:
    try:
        url = make_url(database_url)
    except ArgumentError:
        raise StartupError("The database URL cannot be read; it should look like postgresql://host/name.") from None
    if url.drivername not in ("postgresql", "postgres", "postgresql+psycopg"):
        raise StartupError(f"The database must be PostgreSQL (postgresql://…), not '{url.drivername}'.")
    return url.set(drivername="postgresql+psycopg")


@contextmanager
def database_errors() -> Iterator[None]:
    """Turn "the database is away, too slow or out of connections" into Overloaded; every store runs its SQL inside.

    The cause goes to the log as class and SQLSTATE only. A failure that is our own mistake (bad SQL, a broken
    constraint) passes through unchanged, since trying again cannot help.
    """
    try:
        yield
    except (PoolTimeout, DBAPIError) as error:
        if not is_transient(error):
            raise
        _logger.warning("database unavailable: %s", _label(error))
        raise Overloaded("The database is not available right now; please try again.") from None


def is_transient(error: Exception) -> bool:
    """Tell whether the failure is the database's state (away, slow, locked, read-only), not the statement's fault."""
    if isinstance(error, (PoolTimeout, OperationalError, InterfaceError, InternalError)):
        return True
    return isinstance(error, DBAPIError) and error.connection_invalidated


def _label(error: Exception) -> str:
    original = error.orig if isinstance(error, DBAPIError) else error
    return f"{type(original).__name__} {getattr(original, 'sqlstate', None) or ''}".strip()


def refuse_unsafe_durability(engine: Engine) -> None:
    """Raise StartupError if the server may forget a commit in a crash, as metering promises that none is lost."""
    with database_errors(), engine.connect() as connection:
        for setting in ("fsync", "synchronous_commit"):
            value = connection.execute(text("SELECT current_setting(:name)"), {"name": setting}).scalar_one()
            if value == "off":
                raise StartupError(
                    f"The database runs with {setting}=off and could lose counted messages in a crash; set it to on."
                )
