"""The ledger's way to PostgreSQL: transactions of prepared statements, sent together and read in turn."""

from collections.abc import Iterator
from datetime import date

import psycopg
import pytest

from quillgate_core.storage.ledger import connect_ledger
from quillgate_core.storage.ledger_pipeline import MAX_PREPARED, LedgerPipeline, dates, day_text, texts

MANY_BYTES = 8 * 1024 * 1024


@pytest.fixture
def pipeline(database_url: str) -> Iterator[LedgerPipeline]:
    """One on a connection of its own."""
    connection = connect_ledger(database_url)
    yield LedgerPipeline(connection)
    connection.close()


def test_rows_come_in_the_order_of_the_queries(pipeline: LedgerPipeline) -> None:
    """What nobody asked the rows of is passed over, and a query without rows has none."""
    with pipeline:
        pipeline.execute(b"SELECT 0")
        pipeline.query(b"SELECT $1::int8, $2::text", b"1", b"one")
        pipeline.execute(b"SELECT 2")
        pipeline.query(b"SELECT 3 WHERE false")
        assert pipeline.rows() == [(1, "one")]
        pipeline.query(b"SELECT generate_series(4, 5)")
        assert pipeline.rows() == []
        assert pipeline.rows() == [(4,), (5,)]


def test_a_block_is_one_transaction(pipeline: LedgerPipeline, database_url: str) -> None:
    """All of it is committed at the end, unread rows or not; nothing of one in which a statement failed."""
    with pipeline:
        pipeline.execute(b"CREATE TABLE said (word text)")
    with pipeline:
        pipeline.execute(b"INSERT INTO said VALUES ($1)", b"one")
        pipeline.query(b"SELECT 1")
    with pytest.raises(psycopg.errors.DivisionByZero), pipeline:
        pipeline.execute(b"INSERT INTO said VALUES ($1)", b"two")
        pipeline.query(b"SELECT 1 / $1::int8", b"0")
        pipeline.rows()
    pipeline.connection.close()
    with connect_ledger(database_url) as other:
        assert other.execute("SELECT word FROM said").fetchall() == [("one",)]


def test_what_only_the_commit_tells_is_told(pipeline: LedgerPipeline) -> None:
    """An error that comes with the end of the transaction, or of a statement that was not read, is raised there."""
    with pipeline:
        pipeline.execute(b"CREATE TABLE once (word text UNIQUE DEFERRABLE INITIALLY DEFERRED)")
    with pytest.raises(psycopg.errors.UniqueViolation), pipeline:
        pipeline.execute(b"INSERT INTO once VALUES ('a'), ('a')")


def test_an_exception_of_the_caller_commits_what_was_sent(pipeline: LedgerPipeline) -> None:
    """Whoever leaves a block early finds the connection ready for the next one."""
    with pytest.raises(KeyError), pipeline:
        pipeline.query(b"SELECT 1")
        raise KeyError
    with pipeline:
        pipeline.query(b"SELECT 2")
        assert pipeline.rows() == [(2,)]


def test_much_goes_both_ways_at_once(pipeline: LedgerPipeline) -> None:
    """A server that is sent more than it has read, while it sends more than was read, does not stand still."""
    much = b"x" * MANY_BYTES
    with pipeline:
        for _ in range(3):
            pipeline.query(b"SELECT $1::text", much)
        assert [len(pipeline.rows()[0][0]) for _ in range(3)] == [MANY_BYTES] * 3


def test_the_server_keeps_a_bounded_number_of_statements(pipeline: LedgerPipeline) -> None:
    """The oldest are given up for new ones, and prepared again when they are wanted again."""
    for number in [*range(MAX_PREPARED + 20), 0]:
        with pipeline:
            pipeline.query(b"SELECT %d" % number)
            assert pipeline.rows() == [(number,)]
    with pipeline:
        pipeline.query(b"SELECT count(*) FROM pg_prepared_statements")
        assert pipeline.rows() == [(MAX_PREPARED,)]


def test_parameters_are_read_as_they_were_meant(pipeline: LedgerPipeline) -> None:
    """Whatever is in a text; a NUL is refused, where libpq would end the text."""
    words = ["", "NULL", 'quote " and \\ backslash', "{a,b}", " spaces ", "line\nbreak", "ünïcödé 🙂"]
    days = [date(2030, 1, 2), date(1, 1, 1)]
    with pipeline:
        pipeline.query(b"SELECT $1::text[], $2::date[], $3::date", texts(words), dates(days), day_text(days[0]))
        pipeline.query(b"SELECT $1::text[]", texts([]))
        assert pipeline.rows() == [(words, days, days[0])]
        assert pipeline.rows() == [([],)]
    with pytest.raises(psycopg.DataError, match="NUL"), pipeline:
        pipeline.query(b"SELECT $1::text[]", texts(["a\0b"]))


def test_a_connection_that_is_lost_is_an_error(pipeline: LedgerPipeline) -> None:
    """Not a wait without end."""
    with pytest.raises(psycopg.OperationalError), pipeline:
        pipeline.query(b"SELECT pg_terminate_backend(pg_backend_pid())")
        pipeline.rows()
