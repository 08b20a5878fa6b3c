"""The workspaces: who may see, make and change them, and which names and allowances are taken."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

import pytest
from fakes.site import Site

from quillgate_core.errors import InvalidRequest, ScopeMissing, WorkspaceNotFound
from quillgate_core.principal import (
    INFERENCE,
    KEYS_MANAGE,
    PLATFORM_ADMIN,
    USAGE_READ,
    WORKSPACE_ADMIN,
)
from quillgate_core.workspaces import MAX_ALLOWANCE_MESSAGES, Workspace, WorkspaceChanges

_ALL_BUT_PLATFORM = (INFERENCE, USAGE_READ, KEYS_MANAGE, WORKSPACE_ADMIN)


@pytest.mark.parametrize("allowance", [None, 0, 1, MAX_ALLOWANCE_MESSAGES])
def test_admin_makes_a_workspace(site: Site, allowance: int | None) -> None:
    """A new workspace has the given name and allowance (None: no limit, 0: nothing) and is found again."""
    made = site.workspaces.create(site.admin, name="Größe 🦉", daily_message_allowance=allowance)
    assert (made.name, made.daily_message_allowance) == ("Größe 🦉", allowance)
    assert made.workspace_id.startswith("ws_")
    assert site.workspaces.get(site.admin, made.workspace_id) == made


@pytest.mark.parametrize("allowance", [-1, MAX_ALLOWANCE_MESSAGES + 1])
def test_impossible_allowance_is_refused(site: Site, allowance: int) -> None:
    """An allowance is at least 0, and small enough to be added up safely."""
    with pytest.raises(InvalidRequest) as caught:
        site.workspaces.create(site.admin, name="x", daily_message_allowance=allowance)
    assert caught.value.metadata == {"param": "daily_message_allowance"}
    with pytest.raises(InvalidRequest):
        site.workspaces.update(site.admin, changes=WorkspaceChanges(daily_message_allowance=allowance))


@pytest.mark.parametrize("name", ["", "  ", "x" * 201, "a\0b", "a\nb", "a\x7fb", "\ud800", "a\u2028b"])
def test_unsafe_name_is_refused(site: Site, name: str) -> None:
    """A name is 1 to 200 characters that are safe to print and to store."""
    attempts: list[Callable[[], object]] = [
        lambda: site.workspaces.create(site.admin, name=name, daily_message_allowance=None),
        lambda: site.workspaces.update(site.admin, changes=WorkspaceChanges(name=name)),
    ]
    for attempt in attempts:
        with pytest.raises(InvalidRequest) as caught:
            attempt()
        assert caught.value.metadata == {"param": "name"}


def test_longest_name_is_taken(site: Site) -> None:
    """200 characters are allowed."""
    made = site.workspaces.create(site.admin, name="é" * 200, daily_message_allowance=None)
    assert made.name == "é" * 200


def test_only_the_platform_admin_makes_workspaces(site: Site) -> None:
    """Every other scope together is not enough."""
    caller = site.caller(site.workspace().workspace_id, *_ALL_BUT_PLATFORM)
    with pytest.raises(ScopeMissing) as caught:
        site.workspaces.create(caller, name="more", daily_message_allowance=None)
    assert caught.value.metadata == {"scope": PLATFORM_ADMIN}


def test_any_key_sees_its_own_workspace_only(site: Site) -> None:
    """A foreign workspace's id is answered exactly like an unknown one."""
    own, other = site.workspace("own"), site.workspace("other")
    caller = site.caller(own.workspace_id, INFERENCE)
    assert site.workspaces.get(caller) == site.workspaces.get(caller, own.workspace_id) == own
    for workspace_id in (other.workspace_id, "ws_" + "0" * 20, "ws_\0"):
        with pytest.raises(WorkspaceNotFound) as caught:
            site.workspaces.get(caller, workspace_id)
        assert caught.value.metadata == {"workspace_id": workspace_id}
    assert site.workspaces.list(caller) == ((own,), "")


@pytest.mark.parametrize("workspace_id", ["ws_" + "0" * 20, "ws_\0", "'; DROP TABLE keys", "\ud800", "x" * 10_000])
def test_unknown_workspace_is_not_found(site: Site, workspace_id: str) -> None:
    """The admin too hears "not found", whatever the id looks like."""
    with pytest.raises(WorkspaceNotFound):
        site.workspaces.get(site.admin, workspace_id)
    with pytest.raises(WorkspaceNotFound):
        site.workspaces.update(site.admin, workspace_id, changes=WorkspaceChanges(name="x"))


def test_admin_pages_through_all(site: Site) -> None:
    """Pages follow the order of creation, and repeat and skip nothing, also when one is added meanwhile."""
    expected = [site.workspaces.get(site.admin), *(site.workspace(f"number {n}") for n in range(4))]
    first, token = site.workspaces.list(site.admin, page_size=2)
    second, token = site.workspaces.list(site.admin, page_size=2, page_token=token)
    expected.append(site.workspace("late"))
    third, end = site.workspaces.list(site.admin, page_size=2, page_token=token)
    assert [*first, *second, *third] == expected
    assert end == ""


@pytest.mark.parametrize("page_size", [-1, 1_001])
def test_page_size_is_bounded(site: Site, page_size: int) -> None:
    """A page has at most 1,000 entries."""
    with pytest.raises(InvalidRequest) as caught:
        site.workspaces.list(site.admin, page_size=page_size)
    assert caught.value.metadata == {"param": "page_size"}


def test_workspace_admin_renames_its_own(site: Site) -> None:
    """The name changes, the rest but the update time stays."""
    own = site.workspace("before")
    caller = site.caller(own.workspace_id, WORKSPACE_ADMIN)
    changed = site.workspaces.update(caller, changes=WorkspaceChanges(name="after"))
    assert changed.name == "after"
    assert changed.update_time > own.update_time
    assert (changed.create_time, changed.daily_message_allowance) == (own.create_time, None)
    assert site.workspaces.get(caller) == changed


def test_workspace_admin_turns_storage_off(site: Site) -> None:
    """What is kept of its words is a workspace's own choice, but not any of its keys'."""
    own = site.workspace().workspace_id
    off = WorkspaceChanges(store_responses=False)
    with pytest.raises(ScopeMissing):
        site.workspaces.update(site.caller(own, INFERENCE, KEYS_MANAGE), changes=off)
    assert site.workspaces.update(site.caller(own, WORKSPACE_ADMIN), changes=off).store_responses is False
    assert site.workspaces.get(site.admin, own).store_responses is False


def test_renaming_needs_the_scope(site: Site) -> None:
    """Without `workspace.admin` the name stays."""
    caller = site.caller(site.workspace().workspace_id, INFERENCE, USAGE_READ, KEYS_MANAGE)
    with pytest.raises(ScopeMissing) as caught:
        site.workspaces.update(caller, changes=WorkspaceChanges(name="mine"))
    assert caught.value.metadata == {"scope": WORKSPACE_ADMIN}


def test_another_tenants_workspace_is_not_changed(site: Site) -> None:
    """Its id is answered like an unknown one, and it stays as it was."""
    other = site.workspace("other")
    caller = site.caller(site.workspace().workspace_id, *_ALL_BUT_PLATFORM)
    for workspace_id in (other.workspace_id, "ws_" + "0" * 20):
        with pytest.raises(WorkspaceNotFound):
            site.workspaces.update(caller, workspace_id, changes=WorkspaceChanges(name="taken over"))
    assert site.workspaces.get(site.admin, other.workspace_id) == other


@pytest.mark.parametrize("allowance", [None, 0, 10_000])
def test_a_workspace_cannot_raise_its_own_allowance(site: Site, allowance: int | None) -> None:
    """Only the platform admin changes what may be spent, in any direction."""
    own = site.workspace()
    caller = site.caller(own.workspace_id, *_ALL_BUT_PLATFORM)
    changes = WorkspaceChanges(name="and a name", daily_message_allowance=allowance)
    with pytest.raises(ScopeMissing) as caught:
        site.workspaces.update(caller, changes=changes)
    assert caught.value.metadata == {"scope": PLATFORM_ADMIN}
    assert site.workspaces.get(caller) == own


def test_admin_sets_and_removes_an_allowance(site: Site) -> None:
    """None in a change means "no limit"; a change without the member leaves it."""
    workspace_id = site.workspace().workspace_id

    def update(changes: WorkspaceChanges) -> int | None:
        return site.workspaces.update(site.admin, workspace_id, changes=changes).daily_message_allowance

    assert update(WorkspaceChanges(daily_message_allowance=37)) == 37
    assert update(WorkspaceChanges(name="still")) == 37
    assert update(WorkspaceChanges(daily_message_allowance=None)) is None


@pytest.mark.parametrize("allowance", [-1, MAX_ALLOWANCE_MESSAGES + 1])
def test_impossible_monthly_allowance_is_refused(site: Site, allowance: int) -> None:
    """A monthly allowance has the same bounds, and the error names it."""
    for attempt in (
        lambda: site.workspaces.create(
            site.admin, name="x", daily_message_allowance=None, monthly_message_allowance=allowance
        ),
        lambda: site.workspaces.update(site.admin, changes=WorkspaceChanges(monthly_message_allowance=allowance)),
    ):
        with pytest.raises(InvalidRequest) as caught:
            attempt()
        assert caught.value.metadata == {"param": "monthly_message_allowance"}


def test_a_month_has_an_allowance_of_its_own(site: Site) -> None:
    """Both allowances, and what happens at them, are set and changed apart."""
    made = site.workspaces.create(
        site.admin, name="x", daily_message_allowance=5, monthly_message_allowance=0, at_allowance="allow"
    )
    assert (made.daily_message_allowance, made.monthly_message_allowance, made.at_allowance) == (5, 0, "allow")

    def update(changes: WorkspaceChanges) -> Workspace:
        changed = site.workspaces.update(site.admin, made.workspace_id, changes=changes)
        assert site.workspaces.get(site.admin, made.workspace_id) == changed
        return changed

    assert update(WorkspaceChanges(at_allowance="refuse")) == replace(
        made, at_allowance="refuse", update_time=site.workspaces.get(site.admin, made.workspace_id).update_time
    )
    assert update(WorkspaceChanges(monthly_message_allowance=7)).monthly_message_allowance == 7
    unlimited = update(WorkspaceChanges(monthly_message_allowance=None))
    assert (unlimited.daily_message_allowance, unlimited.monthly_message_allowance) == (5, None)


def test_disabling_keeps_its_first_time(site: Site) -> None:
    """A workspace is disabled once, however often that is said, until it is enabled again."""
    workspace_id = site.workspace().workspace_id

    def disable_time(disabled: bool) -> datetime | None:
        changes = WorkspaceChanges(disabled=disabled)
        return site.workspaces.update(site.admin, workspace_id, changes=changes).disable_time

    first = disable_time(True)
    assert first is not None
    assert disable_time(True) == first == site.workspaces.get(site.admin, workspace_id).disable_time
    assert disable_time(False) is None
    again = disable_time(True)
    assert again is not None and again > first


@pytest.mark.parametrize(
    "changes",
    [
        WorkspaceChanges(monthly_message_allowance=None),
        WorkspaceChanges(at_allowance="allow"),
        WorkspaceChanges(disabled=True),
        WorkspaceChanges(disabled=False),
    ],
)
def test_limits_are_for_the_platform_admin(site: Site, changes: WorkspaceChanges) -> None:
    """Whatever decides over how much is served is out of a workspace's own reach, in any direction."""
    own = site.workspace()
    caller = site.caller(own.workspace_id, *_ALL_BUT_PLATFORM)
    with pytest.raises(ScopeMissing) as caught:
        site.workspaces.update(caller, changes=changes)
    assert caught.value.metadata == {"scope": PLATFORM_ADMIN}
    assert site.workspaces.get(caller) == own


def test_a_change_of_nothing_is_refused(site: Site) -> None:
    """An update must name something."""
    with pytest.raises(InvalidRequest) as caught:
        site.workspaces.update(site.admin, changes=WorkspaceChanges())
    assert caught.value.metadata == {"param": "update_mask"}
