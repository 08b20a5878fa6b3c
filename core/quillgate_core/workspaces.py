"""The workspaces: groups of people that are billed together, with allowances of messages a day and a month.

Enforces who may see and change what. Knows no SQL and no gRPC; the composition root passes the store.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol, TypeAlias

from quillgate_core.errors import InvalidRequest, WorkspaceNotFound
from quillgate_core.key_format import new_workspace_id
from quillgate_core.names import check_name
from quillgate_core.page import PageStart, check_page_size, parse_page_token
from quillgate_core.principal import PLATFORM_ADMIN, WORKSPACE_ADMIN, Principal
from quillgate_core.unchanged import UNCHANGED, Unchanged

MAX_ALLOWANCE_MESSAGES = 10**12

AtAllowance: TypeAlias = Literal["refuse", "allow"]
"""What happens to a request for which too few messages are left: refused, or served and counted as overage too."""


@dataclass(frozen=True, slots=True)
class Workspace:
    """A workspace as it is stored."""

    workspace_id: str
    name: str
    daily_message_allowance: int | None
    """Messages per UTC day; 0 admits none, None is no limit."""
    create_time: datetime
    update_time: datetime
    store_responses: bool = True
    """Whether responses may be kept."""
    monthly_message_allowance: int | None = None
    """Messages per UTC month; 0 admits none, None is no limit."""
    at_allowance: AtAllowance = "refuse"
    disable_time: datetime | None = None
    """When it was disabled, so that nothing that counts is served; None: it is not."""


@dataclass(frozen=True, slots=True)
class WorkspaceChanges:
    """What to change; what is not given stays. An allowance of None takes the limit away."""

    name: str | Unchanged = UNCHANGED
    daily_message_allowance: int | Unchanged | None = UNCHANGED
    store_responses: bool | Unchanged = UNCHANGED
    monthly_message_allowance: int | Unchanged | None = UNCHANGED
    at_allowance: AtAllowance | Unchanged = UNCHANGED
    disabled: bool | Unchanged = UNCHANGED


class WorkspaceStore(Protocol):
    """Where workspaces are kept."""

    def insert(
        self,
        workspace_id: str,
        *,
        name: str,
        daily_message_allowance: int | None,
        monthly_message_allowance: int | None,
        at_allowance: AtAllowance,
        store_responses: bool,
    ) -> Workspace:
        """Add a workspace; both times are the database's."""

    def get(self, workspace_id: str) -> Workspace | None:
        """Return the workspace, None if there is none."""

    def list(self, *, limit: int, after: PageStart | None) -> tuple[Workspace, ...]:
        """Return at most `limit` workspaces in order of creation."""

    def update(self, workspace_id: str, changes: WorkspaceChanges) -> Workspace | None:
        """Change the workspace and return it, None if there is none; the time of a first disabling stays."""


class Workspaces:
    """Creates, shows and changes workspaces on behalf of a caller."""

    def __init__(self, store: WorkspaceStore) -> None:
        self._store = store

    def create(
        self,
        principal: Principal,
        *,
        name: str,
        daily_message_allowance: int | None,
        monthly_message_allowance: int | None = None,
        at_allowance: AtAllowance = "refuse",
        store_responses: bool = True,
    ) -> Workspace:
        """Make a workspace; needs `platform.admin`. Raises ScopeMissing or InvalidRequest."""
        principal.require(PLATFORM_ADMIN)
        return self._store.insert(
            new_workspace_id(),
            name=check_name(name, param="name"),
            daily_message_allowance=_check_allowance(daily_message_allowance, "daily_message_allowance"),
            monthly_message_allowance=_check_allowance(monthly_message_allowance, "monthly_message_allowance"),
            at_allowance=at_allowance,
            store_responses=store_responses,
        )

    def get(self, principal: Principal, workspace_id: str = "") -> Workspace:
        """Return the caller's own workspace (the default), or any for `platform.admin`. Raises WorkspaceNotFound."""
        workspace_id = principal.workspace(workspace_id)
        return _found(workspace_id, self._store.get(workspace_id))

    def list(
        self, principal: Principal, *, page_size: int = 0, page_token: str = ""
    ) -> tuple[tuple[Workspace, ...], str]:
        """Return a page of workspaces, oldest first, and the next page's token: just its own for an ordinary key."""
        limit = check_page_size(page_size)
        after = parse_page_token(page_token)
        if not principal.is_platform_admin:
            return ((self.get(principal),), "") if after is None else ((), "")
        found = self._store.list(limit=limit + 1, after=after)
        page = found[:limit]
        return page, PageStart(page[-1].create_time, page[-1].workspace_id).token() if len(found) > limit else ""

    def update(self, principal: Principal, workspace_id: str = "", *, changes: WorkspaceChanges) -> Workspace:
        """Change a workspace: name and storage with `workspace.admin`, everything else with `platform.admin` only.

        A workspace must not raise its own bill, nor take back that it was disabled. Its keys are not touched by that:
        those of a disabled one still do what does not count. Raises ScopeMissing, WorkspaceNotFound or InvalidRequest.
        """
        principal.require(WORKSPACE_ADMIN)
        workspace_id = principal.workspace(workspace_id)
        if changes == WorkspaceChanges():
            raise InvalidRequest("Nothing to change was named.", param="update_mask")
        if changes != WorkspaceChanges(name=changes.name, store_responses=changes.store_responses):
            principal.require(PLATFORM_ADMIN)
        for param in ("daily_message_allowance", "monthly_message_allowance"):
            allowance = getattr(changes, param)
            if allowance is not UNCHANGED:
                _check_allowance(allowance, param)
        if changes.name is not UNCHANGED:
            check_name(changes.name, param="name")
        return _found(workspace_id, self._store.update(workspace_id, changes))


def _found(workspace_id: str, workspace: Workspace | None) -> Workspace:
    if workspace is None:
        raise WorkspaceNotFound(workspace_id)
    return workspace


def _check_allowance(allowance: int | None, param: str) -> int | None:
    if allowance is not None and not 0 <= allowance <= MAX_ALLOWANCE_MESSAGES:
        raise InvalidRequest(
            f"The {param.partition('_')[0]} allowance must be between 0 and {MAX_ALLOWANCE_MESSAGES} messages.",
            param=param,
        )
    return allowance
