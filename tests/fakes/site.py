"""The key and workspace use cases on a real database, with tenants made as a test needs them."""

from dataclasses import dataclass
from datetime import datetime

from fakes.clock import FakeClock
from sqlalchemy import Engine, text

from quillgate_core.keys import Key, Keys
from quillgate_core.principal import Principal
from quillgate_core.storage.key_store import PostgresKeyStore
from quillgate_core.storage.workspace_store import PostgresWorkspaceStore
from quillgate_core.workspaces import Workspace, Workspaces

PEPPER = bytes(range(32))


@dataclass(frozen=True)
class Site:
    """A service's keys and workspaces as one core process sees them."""

    engine: Engine
    clock: FakeClock
    keys: Keys
    workspaces: Workspaces
    admin: Principal

    def workspace(self, name: str = "a tenant") -> Workspace:
        """Make a workspace."""
        return self.workspaces.create(self.admin, name=name, daily_message_allowance=None)

    def key(
        self,
        workspace_id: str,
        *scopes: str,
        models: tuple[str, ...] = (),
        expire_time: datetime | None = None,
    ) -> tuple[Key, str]:
        """Make a key as the admin would, and return it with its secret."""
        return self.keys.create(
            self.admin,
            workspace_id=workspace_id,
            name="a key",
            scopes=scopes,
            allowed_models=models,
            expire_time=expire_time,
        )

    def caller(
        self,
        workspace_id: str,
        *scopes: str,
        models: tuple[str, ...] = (),
        expire_time: datetime | None = None,
    ) -> Principal:
        """Make a key and authenticate with it."""
        _, secret = self.key(workspace_id, *scopes, models=models, expire_time=expire_time)
        return self.keys.authenticate(secret)

    def replica(self) -> Keys:
        """Return the keys as a second core process on the same database sees them."""
        return make_keys(self.engine, self.clock)

    def run(self, statement: str, **parameters: object) -> None:
        """Change the database behind the service's back, for instance to let time pass."""
        with self.engine.begin() as connection:
            connection.execute(text(statement), parameters)


def make_keys(engine: Engine, clock: FakeClock, *, pepper: bytes = PEPPER) -> Keys:
    """Make the keys of one core process."""
    return Keys(PostgresKeyStore(engine), pepper=pepper, monotonic=clock)


def open_site(engine: Engine) -> Site:
    """Start a service on an empty database for the first time."""
    clock = FakeClock()
    keys = make_keys(engine, clock)
    secret = keys.bootstrap()
    assert secret is not None
    workspaces = Workspaces(PostgresWorkspaceStore(engine))
    return Site(engine, clock, keys, workspaces, keys.authenticate(secret))
