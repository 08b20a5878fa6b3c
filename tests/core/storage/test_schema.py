"""The schema: migrations build exactly what `tables.py` says, once, and never run against a newer database."""

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from fakes.books import Books
from sqlalchemy import CheckConstraint, Engine, inspect, text

from quillgate_core.storage import schema
from quillgate_core.storage.engine import make_engine
from quillgate_core.storage.schema import migrate
from quillgate_core.storage.startup import StartupError
from quillgate_core.storage.tables import metadata


def test_migrated_schema_equals_the_tables(engine: Engine) -> None:
    """The migrations leave no table, column, type, default, comment, index or foreign key that `tables.py` lacks."""
    with engine.connect() as connection:
        options = {
            "compare_type": True,
            "compare_server_default": True,
            "include_name": lambda name, kind, _: kind != "table" or not re.fullmatch("ledger_[0-9]{8}", str(name)),
        }
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, metadata) == []


def test_migrated_checks_and_indexes_equal_the_tables(engine: Engine) -> None:
    """Check constraints and index names, which the comparison above does not see, are the same too."""
    inspector = inspect(engine)
    for table in metadata.sorted_tables:
        wanted = {str(check.name) for check in table.constraints if isinstance(check, CheckConstraint)}
        assert {check["name"] for check in inspector.get_check_constraints(table.name)} == wanted
        assert {index["name"] for index in inspector.get_indexes(table.name)} == {
            str(index.name) for index in table.indexes
        }


def test_daily_rows_leave_room_for_updates_in_place(engine: Engine) -> None:
    """The hottest table keeps half of each page free, so that its counters are updated without touching an index."""
    with engine.connect() as connection:
        query = text("SELECT reloptions FROM pg_class WHERE relname = 'daily_message_count'")
        assert connection.execute(query).scalar_one() == ["fillfactor=50"]


def test_head_is_the_newest_migration(empty_database_url: str) -> None:
    """What a start compares with, to do without Alembic, is what the migrations lead to."""
    engine = make_engine(empty_database_url)
    migrate(engine)
    with engine.connect() as connection:
        assert MigrationContext.configure(connection).get_current_heads() == (schema.HEAD,)
    engine.dispose()


def test_migrating_again_changes_nothing(engine: Engine) -> None:
    """A second start finds the schema as it is and keeps the data."""
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO workspaces (workspace_id, name) VALUES ('ws_1', 'kept')"))
    migrate(engine)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT name FROM workspaces")).scalars().all() == ["kept"]


def test_two_cores_may_migrate_at_once(empty_database_url: str) -> None:
    """Of two processes that start on an empty database, one migrates, the other waits, and both succeed."""
    engines = [make_engine(empty_database_url) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(migrate, engine) for engine in engines]:
            done.result(timeout=60)
    with engines[0].connect() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalars().all() == ["0005"]
    for engine in engines:
        engine.dispose()


def test_newer_schema_is_refused(engine: Engine) -> None:
    """A database that a newer release has migrated is left alone, and the error names the revision."""
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StartupError, match="revision 9999 is not known"):
        migrate(engine)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one() == "9999"


def test_rows_of_the_release_before_are_moved(empty_database_url: str) -> None:
    """A ledger without days is taken apart into them, with every row, and keys get their sums."""
    engine = make_engine(empty_database_url)
    with engine.begin() as connection:
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", str(Path(schema.__file__).parent / "migrations"))
        command.upgrade(config, "0004")
        for statement in _OLD_ROWS:
            connection.execute(text(statement))
    migrate(engine)
    books = Books(engine)
    rows = books.read("SELECT tableoid::regclass::text AS kept_in, request_id, counted_messages FROM ledger ORDER BY 2")
    assert [tuple(row) for row in rows] == [
        ("ledger_20300501", "r1", 3),
        ("ledger_20300501", "r2", 0),
        ("ledger_20300502", "r3", 2),
    ]
    query = "SELECT day::text, message_count, held_messages, open_requests FROM key_daily_message_count ORDER BY day"
    assert [tuple(row) for row in books.read(query)] == [("2030-05-01", 2, 4, 1), ("2030-05-02", 2, 0, 0)]
    books.check()
    engine.dispose()


_OLD_ROWS = (
    "INSERT INTO workspaces (workspace_id, name) VALUES ('ws', 'ws')",
    "INSERT INTO daily_message_count (workspace_id, day, message_count, held_messages, input_tokens, request_count,"
    " unpriced_request_count) VALUES ('ws', '2030-05-01', 2, 4, 90, 1, 1), ('ws', '2030-05-02', 2, 0, 0, 1, 1)",
    "INSERT INTO ledger (workspace_id, request_id, day, state, key_id, nonce, endpoint, model, held_messages,"
    " counted_messages, prompt_tokens, usage_source, reserve_time) VALUES"
    " ('ws', 'r1', '2030-05-01', 'settled', 'k', 1, '', '', 2, 3, 100, 'estimate', '2030-05-01 12:00Z'),"
    " ('ws', 'r2', '2030-05-01', 'open', 'k', 1, '', '', 4, 0, 0, '', '2030-05-01 13:00Z'),"
    " ('ws', 'r3', '2030-05-02', 'recovered', 'k', 1, '', '', 2, 2, 0, 'hold', '2030-05-02 13:00Z')",
    "INSERT INTO ledger_adjustments (workspace_id, request_id, source, day, counted_messages, prompt_tokens,"
    " cached_tokens, completion_tokens) VALUES ('ws', 'r1', 'openrouter', '2030-05-01', -1, -10, 0, 0)",
)
