"""A real PostgreSQL for every test that asks for one: one embedded server a run, one migrated database a test.

A database is copied from a migrated template, which takes about 20 ms; so tests share nothing and clean up nothing.
"""

import itertools
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import pytest_asyncio
from service import RunningService, start_service
from sqlalchemy import Engine, make_url

from quillgate_core.storage.embedded import EmbeddedPostgres
from quillgate_core.storage.engine import make_engine
from quillgate_core.storage.schema import migrate


class DatabaseServer:
    """Makes and drops databases on one server."""

    def __init__(self, url: str) -> None:
        self._url = make_url(url)
        self._numbers = itertools.count(1)

    def create(self, template: str = "template0") -> str:
        """Create a database as a copy of `template` and return its URL."""
        name = f"test_{next(self._numbers)}"
        self._run(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY wal_log")
        return self._url.set(database=name).render_as_string(hide_password=False)

    def drop(self, url: str) -> None:
        """Drop the database, cutting off whoever is still connected."""
        self._run(f"DROP DATABASE {make_url(url).database} WITH (FORCE)")

    def _run(self, statement: str) -> None:
        with psycopg.connect(self._url.render_as_string(hide_password=False), autocommit=True) as connection:
            connection.execute(statement)


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """The embedded server of the whole run, in a directory that goes with it."""
    data_dir = Path(tempfile.mkdtemp(prefix="quillgate-test-"))
    with EmbeddedPostgres(data_dir) as server:
        yield server
    shutil.rmtree(data_dir)


@pytest.fixture(scope="session")
def database_server(postgres: EmbeddedPostgres) -> DatabaseServer:
    """Makes further databases on the server of the run."""
    return DatabaseServer(postgres.url)


@pytest.fixture(scope="session")
def template_database(database_server: DatabaseServer) -> str:
    """The name of a migrated database that nobody is connected to, to copy from."""
    url = database_server.create()
    engine = make_engine(url)
    migrate(engine)
    engine.dispose()
    return str(make_url(url).database)


@pytest.fixture
def empty_database_url(database_server: DatabaseServer) -> Iterator[str]:
    """The URL of a database without any table."""
    url = database_server.create()
    yield url
    database_server.drop(url)


@pytest.fixture
def database_url(database_server: DatabaseServer, template_database: str) -> Iterator[str]:
    """The URL of a fresh, migrated database of this test alone."""
    url = database_server.create(template_database)
    yield url
    database_server.drop(url)


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """An engine on a fresh, migrated database of this test alone."""
    engine = make_engine(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def make_database(database_server: DatabaseServer, template_database: str) -> Iterator[Callable[[], str]]:
    """Makes as many fresh, migrated databases as a test wants, for instance one per Hypothesis example."""
    urls: list[str] = []

    def make() -> str:
        urls.append(database_server.create(template_database))
        return urls[-1]

    yield make
    for url in urls:
        database_server.drop(url)


@pytest_asyncio.fixture
async def running_service(database_url: str, tmp_path: Path) -> AsyncIterator[RunningService]:
    """The whole service on a fresh database, all in one."""
    async with start_service(database_url, tmp_path) as service:
        yield service
