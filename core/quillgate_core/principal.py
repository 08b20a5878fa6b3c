"""Who is calling: the authenticated key with what it may do. Decides permissions; knows no storage and no secret."""

import re
from dataclasses import dataclass
from datetime import datetime

from quillgate_core.errors import ModelNotAllowed, ScopeMissing, WorkspaceNotFound
from quillgate_core.key import NO_LIMITS, KeyLimits

INFERENCE = "inference"
USAGE_READ = "usage.read"
KEYS_MANAGE = "keys.manage"
WORKSPACE_ADMIN = "workspace.admin"
PLATFORM_ADMIN = "platform.admin"
SCOPES = (INFERENCE, USAGE_READ, KEYS_MANAGE, WORKSPACE_ADMIN, PLATFORM_ADMIN)
"""Every scope, weakest first; keys list theirs in this order."""

_POSSIBLE_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")


@dataclass(frozen=True, slots=True)
class Principal:
    """A key that was authenticated, as it was then; a reservation checks `key_revision` against the database again."""

    key_id: str
    key_revision: int
    workspace_id: str
    scopes: frozenset[str]
    allowed_models: tuple[str, ...] = ()
    """Empty: every model."""
    expire_time: datetime | None = None
    """When this credential ends: the earlier of the key's expiry and that of the presented secret. None: never."""
    limits: KeyLimits = NO_LIMITS
    """How much it may use itself, and so the most that it may grant."""

    @property
    def is_platform_admin(self) -> bool:
        """Whether it may act in every workspace."""
        return PLATFORM_ADMIN in self.scopes

    def holds(self, scope: str) -> bool:
        """Tell whether it has the scope; `platform.admin` implies all."""
        return scope in self.scopes or self.is_platform_admin

    def require(self, scope: str) -> None:
        """Raise ScopeMissing unless it holds the scope."""
        if not self.holds(scope):
            raise ScopeMissing(scope)

    def may_use(self, model: str) -> bool:
        """Tell whether its allow-list, if it has one, names the model."""
        return not self.allowed_models or model in self.allowed_models

    def require_model(self, model: str) -> None:
        """Raise ModelNotAllowed unless it may use the model."""
        if not self.may_use(model):
            raise ModelNotAllowed(model)

    def workspace(self, requested: str) -> str:
        """Return the workspace to act on: its own by default (empty), another one for `platform.admin` only.

        Raises WorkspaceNotFound otherwise, whether or not there is such a workspace.
        """
        if requested in ("", self.workspace_id):
            return self.workspace_id
        if not self.is_platform_admin or _POSSIBLE_ID.fullmatch(requested) is None:
            raise WorkspaceNotFound(requested)
        return requested
