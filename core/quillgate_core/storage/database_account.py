"""The system account that an embedded PostgreSQL runs as, and its way to the files it needs.

PostgreSQL refuses to run as root. Started by root (a container, usually) it therefore runs as an unprivileged
account that already exists; none is created, and no permission is widened further than the right to pass through.
"""

import logging
import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path

from quillgate_core.storage.startup import StartupError

_logger = logging.getLogger(__name__)

_ACCOUNT_NAMES = ("quillgate", "postgres", "nobody")


@dataclass(frozen=True, slots=True)
class DatabaseAccount:
    """The account of the database's processes; `uid` and `gid` are None when it is simply our own."""

    uid: int | None = None
    gid: int | None = None

    @property
    def groups(self) -> list[int] | None:
        """The supplementary groups to run with: none for another account, unchanged for our own."""
        return None if self.uid is None else []

    @property
    def effective_uid(self) -> int:
        """The numeric id that owns what the database writes."""
        return os.geteuid() if self.uid is None else self.uid

    def make_dir(self, path: Path) -> None:
        """Make `path` a directory that only this account can enter."""
        path.mkdir(mode=0o700)
        if self.uid is not None and self.gid is not None:
            os.chown(path, self.uid, self.gid)

    def open_way_to(self, path: Path) -> None:
        """Let the account pass through (never list or read) every directory above `path`.

        Root's home and temporary directories are usually closed to others. Raises StartupError if that fails.
        """
        if self.uid is None:
            return
        for directory in path.parents:
            if self._may_enter(directory):
                continue
            _logger.warning("opening %s for passing through (o+x), so that the database account can work", directory)
            try:
                directory.chmod(stat.S_IMODE(directory.stat().st_mode) | stat.S_IXOTH)
            except OSError:
                raise StartupError(
                    f"The database runs as uid {self.uid}, which cannot pass through {directory}; "
                    "choose another data directory, start as a normal user, or set a database URL."
                ) from None

    def _may_enter(self, directory: Path) -> bool:
        status = directory.stat()
        if status.st_uid == self.uid:
            return bool(status.st_mode & stat.S_IXUSR)
        return bool(status.st_mode & stat.S_IXOTH)


def choose_account(cluster: Path) -> DatabaseAccount:
    """Choose who runs the database in `cluster`: ourselves, or for root its owner, or else an account that exists."""
    if os.geteuid() != 0:
        return DatabaseAccount()
    if cluster.exists() and cluster.stat().st_uid != 0:
        status = cluster.stat()
        return DatabaseAccount(status.st_uid, status.st_gid)
    for name in _ACCOUNT_NAMES:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid != 0:
            return DatabaseAccount(entry.pw_uid, entry.pw_gid)
    raise StartupError("Started as root, and there is no account (quillgate, postgres or nobody) for the database.")
