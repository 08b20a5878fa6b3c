"""The engine: which URLs it takes, what every connection is limited to, and how failures of the database surface."""

import psycopg
import pytest
from psycopg.pq import TransactionStatus
from sqlalchemy import Engine, text
from sqlalchemy.exc import IntegrityError

from quillgate_core.errors import Overloaded
from quillgate_core.storage.engine import database_errors, make_engine, refuse_unsafe_durability, single_statements
from quillgate_core.storage.startup import StartupError


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_every_spelling_of_a_postgresql_url_works(scheme: str) -> None:
    """The short scheme of hosting providers, the usual one and SQLAlchemy's mean the same driver."""
    engine = make_engine(f"{scheme}://someone:password@db.example/quillgate")
    assert engine.dialect.driver == "psycopg"
    assert engine.dialect.name == "postgresql"


@pytest.mark.parametrize(
    "url", ["sqlite:///x", "mysql://u:hunter2@h/d", "postgresql+asyncpg://u:hunter2@h/d", "hunter2"]
)
def test_other_databases_are_refused_without_repeating_the_url(url: str) -> None:
    """Only PostgreSQL is accepted, and the error holds no password."""
    with pytest.raises(StartupError) as caught:
        make_engine(url)
    assert "hunter2" not in str(caught.value)


def test_every_connection_is_limited(engine: Engine) -> None:
    """A statement ends after 2 s, a wait for a lock after 1 s, an idle transaction after 10 s; times are UTC."""
    expected = {
        "statement_timeout": "2s",
        "lock_timeout": "1s",
        "idle_in_transaction_session_timeout": "10s",
        "TimeZone": "UTC",
        "application_name": "quillgate",
    }
    with engine.connect() as connection:
        actual = {name: connection.execute(text(f"SHOW {name}")).scalar_one() for name in expected}
    assert actual == expected


def test_options_in_the_url_are_kept(database_url: str) -> None:
    """An operator's own server options reach the connection beside ours."""
    engine = make_engine(f"{database_url}&options=-c%20search_path%3Delsewhere")
    with engine.connect() as connection:
        assert connection.execute(text("SHOW search_path")).scalar_one() == "elsewhere"
        assert connection.execute(text("SHOW statement_timeout")).scalar_one() == "2s"
    engine.dispose()


def test_a_statement_that_stands_alone_stays_prepared(database_url: str) -> None:
    """It opens no transaction, whose end without a commit would make the server forget what was prepared."""
    engine = make_engine(database_url, pool_size=1)
    for _ in range(10):
        with single_statements(engine).connect() as connection:
            assert connection.execute(text("SELECT 20 + 22")).scalar_one() == 42
            driver_connection = connection.connection.driver_connection
            assert isinstance(driver_connection, psycopg.Connection)
            assert driver_connection.info.transaction_status == TransactionStatus.IDLE
    prepared = text("SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%20 + 22%'")
    with single_statements(engine).connect() as connection:
        assert connection.execute(prepared).scalar_one() == 1
    engine.dispose()


def test_what_follows_on_the_same_connection_is_a_transaction_again(database_url: str) -> None:
    """The pool hands it to whoever needs more than one statement, and takes back what is not committed."""
    engine = make_engine(database_url, pool_size=1)
    with single_statements(engine).connect() as connection:
        connection.execute(text("SELECT 1"))
    with engine.connect() as connection:
        connection.execute(text("CREATE TABLE of_nobody (n int)"))
    with engine.connect() as connection:
        assert connection.execute(text("SELECT to_regclass('of_nobody')")).scalar_one() is None
    engine.dispose()


def test_unreachable_database_is_overload(caplog: pytest.LogCaptureFixture) -> None:
    """No connection means "try again", with neither address nor cause in the error."""
    engine = make_engine("postgresql://127.0.0.1:1/quillgate")
    with pytest.raises(Overloaded) as caught, database_errors(), engine.connect():
        pass
    assert caught.value.metadata == {"retry_after_s": "1"}
    assert "127.0.0.1" not in caught.value.message
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert "database unavailable: OperationalError" in caplog.text


def test_slow_statement_is_overload_and_shows_no_sql(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    """A statement that runs into its limit is told without its text, to the caller and in the log."""
    with pytest.raises(Overloaded) as caught, database_errors(), engine.begin() as connection:
        connection.execute(text("SET LOCAL statement_timeout = 10"))
        connection.execute(text("SELECT pg_sleep(1)"))
    assert "pg_sleep" not in caught.value.message + caplog.text
    assert "QueryCanceled 57014" in caplog.text


def test_exhausted_pool_is_overload(database_url: str) -> None:
    """A caller who gets no connection in time hears "try again"."""
    engine = make_engine(database_url, pool_size=1, pool_wait_s=0.01)
    with engine.connect(), pytest.raises(Overloaded), database_errors(), engine.connect():
        pass
    engine.dispose()


def test_cut_connection_is_overload_and_the_next_one_works(engine: Engine) -> None:
    """When the server ends our session in mid-transaction, that call fails and the pool recovers by itself."""
    with pytest.raises(Overloaded), database_errors(), engine.begin() as connection:
        pid = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
        with engine.connect() as other:
            other.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
        connection.execute(text("SELECT 1"))
    with engine.connect() as connection:
        assert connection.execute(text("SELECT 1")).scalar_one() == 1


def test_our_own_mistakes_pass_through(engine: Engine) -> None:
    """A broken constraint is not disguised as overload, since trying again cannot help."""
    insert = text(
        "INSERT INTO keys (key_id, workspace_id, name, scopes, allowed_models) VALUES ('k', 'w', 'n', '{}', '{}')"
    )
    with pytest.raises(IntegrityError), database_errors(), engine.begin() as connection:
        connection.execute(insert)


def test_durable_server_is_accepted(engine: Engine) -> None:
    """The embedded server keeps what it has committed."""
    refuse_unsafe_durability(engine)


def test_server_without_fsync_is_refused(engine: Engine) -> None:
    """Where a crash could forget commits, the service does not start. (A function fakes the setting.)"""
    shadow = "CREATE FUNCTION current_setting(text) RETURNS text LANGUAGE sql AS $$ SELECT 'off' $$"
    _set_for_database(engine, shadow, "search_path = public, pg_catalog")
    with pytest.raises(StartupError, match="fsync=off"):
        refuse_unsafe_durability(engine)


def test_server_without_synchronous_commit_is_refused(engine: Engine) -> None:
    """A commit that returns before it is durable is refused too."""
    _set_for_database(engine, "SELECT 1", "synchronous_commit = off")
    with pytest.raises(StartupError, match="synchronous_commit=off"):
        refuse_unsafe_durability(engine)


def _set_for_database(engine: Engine, statement: str, setting: str) -> None:
    with engine.begin() as connection:
        connection.execute(text(statement))
        connection.execute(text(f"ALTER DATABASE {engine.url.database} SET {setting}"))
    engine.dispose()
