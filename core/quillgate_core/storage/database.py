"""The database that a core stands on, opened and made ready before anything is served. Blocking: do it first."""

from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from sqlalchemy import Engine

from quillgate_core.sealing import MasterKeys
from quillgate_core.secret import Secret
from quillgate_core.storage.embedded import EmbeddedPostgres
from quillgate_core.storage.engine import POOL_SIZE, make_engine, refuse_unsafe_durability
from quillgate_core.storage.master_key import load_or_create_master_keys, master_keys_of
from quillgate_core.storage.pepper import load_or_create_pepper
from quillgate_core.storage.provider_credential_store import has_provider_credentials
from quillgate_core.storage.schema import migrate

NO_SECRET: Final = Secret("")

LEASE_POOL_SIZE = 2

SPARE_CONNECTIONS = 16
CONNECTIONS_A_CORE = POOL_SIZE + LEASE_POOL_SIZE + 2
"""The most that one core has open: both pools, its writer's, and one that the server has not yet seen end."""


class Database:
    """PostgreSQL at a URL, or an embedded one for an empty URL; a context manager that migrates it on the way in.

    The master keys are those of `master_key` if it is not empty, else those of the file. An embedded one has room for
    so many `cores`.
    Raises StartupError for a database that must not be used, Overloaded for one that does not answer.
    """

    engine: Engine
    lease_engine: Engine
    """Connections of their own for leases, which must not wait for whoever reads a lot."""
    url: str
    data_dir: Path
    pepper: bytes
    master_keys: MasterKeys

    def __init__(
        self,
        url: str,
        *,
        data_dir: Path,
        pepper_file: Path | None = None,
        master_key_file: Path | None = None,
        master_key: Secret = NO_SECRET,
        cores: int = 1,
    ) -> None:
        self.url = url
        self.data_dir = data_dir
        self._pepper_file = pepper_file or data_dir / "pepper"
        self._master_key_file = master_key_file or data_dir / "master-key"
        self._master_key = master_key
        max_connections = max(40, SPARE_CONNECTIONS + CONNECTIONS_A_CORE * cores)
        self._embedded = None if url else EmbeddedPostgres(data_dir, max_connections=max_connections)
        self._is_open = False

    def __enter__(self) -> Self:
        try:
            if self._embedded is not None:
                self.url = self._embedded.start()
            self.engine = make_engine(self.url)
            self.lease_engine = make_engine(self.url, pool_size=LEASE_POOL_SIZE)
            self._is_open = True
            refuse_unsafe_durability(self.engine)
            migrate(self.engine)
            self.pepper = load_or_create_pepper(self._pepper_file)
            self.master_keys = self._load_master_keys()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _load_master_keys(self) -> MasterKeys:
        if self._master_key.reveal():
            return master_keys_of(self._master_key)
        is_needed = partial(has_provider_credentials, self.engine)
        return load_or_create_master_keys(self._master_key_file, is_needed=is_needed)

    def _close(self) -> None:
        if self._is_open:
            self.engine.dispose()
            self.lease_engine.dispose()
        if self._embedded is not None:
            self._embedded.stop()
