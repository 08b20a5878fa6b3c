"""The embedded PostgreSQL: one server per data directory, private, shared by those who use it, stopped by the last."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from quillgate_core.storage.embedded import EmbeddedPostgres
from quillgate_core.storage.startup import StartupError

# Runs a server until a line arrives on its standard input; deaf to Ctrl-C, so that only the server could react to it.
_OWNER = """
import signal, sys
from pathlib import Path
from quillgate_core.storage.embedded import EmbeddedPostgres
signal.signal(signal.SIGINT, signal.SIG_IGN)
EmbeddedPostgres(Path(sys.argv[1])).start()
print("started", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A short path for a data directory, as a socket's path may not be long."""
    path = Path(tempfile.mkdtemp(prefix="quillgate-test-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def start_owner(data_dir: Path) -> Iterator[Callable[[], "subprocess.Popen[str]"]]:
    """Starts other processes that run the server of the data directory, and lets them end orderly at last."""
    processes: list[subprocess.Popen[str]] = []

    def start() -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", _OWNER, str(data_dir)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
        )
        processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        return process

    yield start
    for process in processes:
        if process.poll() is None:
            process.communicate("\n")


def _ask(url: str, query: str) -> object:
    with psycopg.connect(url) as connection:
        row = connection.execute(query).fetchone()
    assert row is not None
    return row[0]


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_data_survives_a_restart(data_dir: Path) -> None:
    """What was committed is there after the server was stopped and started again."""
    with EmbeddedPostgres(data_dir) as server, psycopg.connect(server.url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS value")
    with EmbeddedPostgres(data_dir) as server:
        assert _ask(server.url, "SELECT value FROM kept") == 42


def test_server_is_durable_modest_and_private(postgres: EmbeddedPostgres) -> None:
    """It keeps commits, takes little memory, and listens on a socket that only its own account and root can reach."""
    assert _ask(postgres.url, "SHOW fsync") == "on"
    assert _ask(postgres.url, "SHOW full_page_writes") == "on"
    assert _ask(postgres.url, "SHOW data_checksums") == "on"
    assert _ask(postgres.url, "SHOW listen_addresses") == ""
    assert _ask(postgres.url, "SHOW shared_buffers") == "64MB"
    assert _ask(postgres.url, "SHOW jit") == "off"
    assert _ask(postgres.url, "SHOW server_encoding") == "UTF8"
    socket_dir = Path(str(_ask(postgres.url, "SHOW unix_socket_directories")))
    assert socket_dir.stat().st_mode & 0o777 == 0o700


def test_stopping_ends_the_server_and_may_be_repeated(data_dir: Path) -> None:
    """After stop nothing runs and the URL is gone; stopping again does nothing."""
    server = EmbeddedPostgres(data_dir)
    url = server.start()
    assert server.start() == url
    server.stop()
    server.stop()
    assert server.url == ""
    assert server.server_pid is None
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(url)


def test_the_last_user_stops_the_server(data_dir: Path) -> None:
    """A second service on the same directory joins the running server, which outlives the first."""
    first, second = EmbeddedPostgres(data_dir), EmbeddedPostgres(data_dir)
    assert first.start() == second.start()
    first.stop()
    assert _ask(second.url, "SELECT 1") == 1
    second.stop()
    assert second.server_pid is None


def test_another_process_may_join(data_dir: Path, start_owner: Callable[[], "subprocess.Popen[str]"]) -> None:
    """A process that ends normally leaves the server to the one that joined it, and its data stays reachable."""
    owner = start_owner()
    with EmbeddedPostgres(data_dir) as server:
        pid = server.server_pid
        owner.communicate("\n")
        assert owner.returncode == 0
        assert _ask(server.url, "SELECT 1") == 1
        assert server.server_pid == pid


def test_normal_exit_stops_the_server(data_dir: Path, start_owner: Callable[[], "subprocess.Popen[str]"]) -> None:
    """A process that just ends takes its server along, even without calling stop."""
    owner = start_owner()
    assert EmbeddedPostgres(data_dir).server_pid is not None
    owner.communicate("\n")
    assert EmbeddedPostgres(data_dir).server_pid is None


def test_ctrl_c_does_not_reach_the_server(data_dir: Path, start_owner: Callable[[], "subprocess.Popen[str]"]) -> None:
    """The terminal's interrupt goes to our process group only, so that we can still settle before the server stops."""
    owner = start_owner()
    server_pid = EmbeddedPostgres(data_dir).server_pid
    assert server_pid is not None
    assert os.getpgid(server_pid) != os.getpgid(owner.pid)
    assert os.getsid(server_pid) != os.getsid(owner.pid)
    os.killpg(owner.pid, signal.SIGINT)
    with EmbeddedPostgres(data_dir) as server:
        assert server.server_pid == server_pid


def test_server_of_a_killed_process_is_adopted(
    data_dir: Path, start_owner: Callable[[], "subprocess.Popen[str]"]
) -> None:
    """After kill -9 of the service the next start takes the running server over, and stops it in the end."""
    owner = start_owner()
    owner.kill()
    owner.communicate()
    server = EmbeddedPostgres(data_dir)
    assert server.server_pid is not None
    server.start()
    assert _ask(server.url, "SELECT 1") == 1
    server.stop()
    assert server.server_pid is None


def test_killed_server_recovers(data_dir: Path) -> None:
    """After kill -9 of the database the next start replays its log and finds every commit."""
    server = EmbeddedPostgres(data_dir)
    url = server.start()
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS value")
    pid = server.server_pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    _wait_until(lambda: server.server_pid is None)
    server.stop()
    with EmbeddedPostgres(data_dir) as again:
        assert _ask(again.url, "SELECT value FROM kept") == 42


def test_half_made_cluster_is_made_again(data_dir: Path) -> None:
    """A first start that was killed in the middle leaves nothing that a second start trips over."""
    (data_dir / "postgres.new").mkdir()
    (data_dir / "postgres.new" / "PG_VERSION").write_text("18\n")
    with EmbeddedPostgres(data_dir) as server:
        assert _ask(server.url, "SELECT 1") == 1


def test_long_path_gets_its_socket_elsewhere(data_dir: Path) -> None:
    """A data directory too deep for a Unix socket works, with the socket in a private short directory."""
    deep = data_dir / ("d" * 120)
    with EmbeddedPostgres(deep) as server:
        socket_dir = Path(str(_ask(server.url, "SHOW unix_socket_directories")))
        assert not socket_dir.is_relative_to(data_dir)
        assert socket_dir.stat().st_mode & 0o777 == 0o700
    socket_dir.rmdir()


def test_odd_characters_in_the_path_are_no_problem(data_dir: Path) -> None:
    """Spaces, quotes, percent, plus and non-ASCII letters in the data directory's name reach the URL intact."""
    with EmbeddedPostgres(data_dir / "a b'%2F+ü$&") as server:
        assert _ask(server.url, "SELECT current_database()") == "quillgate"


def test_missing_package_is_named(data_dir: Path) -> None:
    """Without the optional package the error says which extra to install, or what to set instead."""
    server = EmbeddedPostgres(data_dir, package="quillgate_no_such_package")
    with pytest.raises(StartupError, match=r"extra `embedded`.*QUILLGATE_DATABASE_URL"):
        server.start()


def test_refusal_shows_the_end_of_the_log(data_dir: Path) -> None:
    """A cluster that PostgreSQL will not open is reported with PostgreSQL's own words, and leaves no process."""
    with EmbeddedPostgres(data_dir) as server:
        pass
    (data_dir / "postgres" / "PG_VERSION").write_text("11\n")
    with pytest.raises(StartupError, match="not compatible"):
        server.start()
    assert server.server_pid is None


def test_stale_socket_is_no_server(data_dir: Path) -> None:
    """A pid file and a socket that a crash left behind, even naming a live process, do not pass for a server."""
    with EmbeddedPostgres(data_dir) as server:
        pass
    pid_file = data_dir / "postgres" / "postmaster.pid"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(data_dir / "postgres" / ".s.PGSQL.5432"))
    pid_file.write_text(f"{os.getpid()}\n{data_dir}/postgres\n1\n5432\n{data_dir}/postgres\n\n1 1\nready\n")
    assert server.server_pid is None


def test_start_that_takes_too_long_leaves_no_process(data_dir: Path) -> None:
    """A server that is not ready in time is stopped again, and the error says how long was waited."""
    with EmbeddedPostgres(data_dir) as server:
        pass
    with pytest.raises(StartupError, match="not ready after 0 s"):
        EmbeddedPostgres(data_dir, start_timeout_s=0.001).start()
    _wait_until(lambda: server.server_pid is None)
    with EmbeddedPostgres(data_dir) as server:
        assert _ask(server.url, "SELECT 1") == 1
