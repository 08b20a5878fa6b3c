"""WorkspaceService on the real workspaces and a real database: what each message means, and back."""

from typing import Any

import pytest
from fakes.site import Site
from fakes.sync_rpc import FakeCaller, SyncRpc
from google.protobuf.field_mask_pb2 import FieldMask

from quillgate.v1 import workspace_service_pb2 as pb
from quillgate_core.errors import InvalidRequest, ScopeMissing, WorkspaceNotFound
from quillgate_core.principal import INFERENCE, PLATFORM_ADMIN, WORKSPACE_ADMIN
from quillgate_core.rpc.workspace_service import WorkspaceService
from quillgate_core.workspaces import MAX_ALLOWANCE_MESSAGES

SERVICE = pb.DESCRIPTOR.services_by_name["WorkspaceService"]


@pytest.fixture
def caller(site: Site) -> FakeCaller:
    """The admin, until the test says otherwise."""
    return FakeCaller(site.admin)


@pytest.fixture
def servicer(site: Site, caller: FakeCaller) -> WorkspaceService:
    """The servicer itself, for errors."""
    return WorkspaceService(site.workspaces, caller)


@pytest.fixture
def call(servicer: WorkspaceService) -> SyncRpc:
    """The servicer as gRPC calls it."""
    return SyncRpc(SERVICE, servicer)


def _update(workspace_id: str, *paths: str, **fields: Any) -> pb.UpdateWorkspaceRequest:
    return pb.UpdateWorkspaceRequest(workspace_id=workspace_id, update_mask=FieldMask(paths=paths), **fields)


@pytest.mark.parametrize("allowance", [None, 0, 37, MAX_ALLOWANCE_MESSAGES])
def test_created_workspace_has_its_allowance(call: SyncRpc, allowance: int | None) -> None:
    """No allowance is no limit, and is not the same as zero."""
    made = call("CreateWorkspace", pb.CreateWorkspaceRequest(name="n", daily_message_allowance=allowance)).workspace
    assert made.name == "n"
    assert made.HasField("daily_message_allowance") == (allowance is not None)
    assert made.daily_message_allowance == (allowance or 0)
    assert 0 < made.create_time.ToNanoseconds() <= made.update_time.ToNanoseconds()
    assert call("GetWorkspace", pb.GetWorkspaceRequest(workspace_id=made.workspace_id)).workspace == made


def test_get_without_an_id_is_ones_own(site: Site, caller: FakeCaller, call: SyncRpc) -> None:
    """Any key may see the workspace that it belongs to."""
    own = site.workspace("own")
    caller.principal = site.caller(own.workspace_id, INFERENCE)
    assert call("GetWorkspace", pb.GetWorkspaceRequest()).workspace.name == "own"


def test_list_pages_through_all_for_an_admin(site: Site, call: SyncRpc) -> None:
    """Pages follow each other, oldest first."""
    names = ["default", *(site.workspace(f"w{number}").name for number in range(2))]
    listed: list[str] = []
    token = ""
    for _ in names:
        page = call("ListWorkspaces", pb.ListWorkspacesRequest(page_size=1, page_token=token))
        listed += [workspace.name for workspace in page.workspaces]
        token = page.next_page_token
    assert (listed, token) == (names, "")


def test_list_shows_others_only_their_own(site: Site, caller: FakeCaller, call: SyncRpc) -> None:
    """A tenant cannot count the other tenants."""
    own = site.workspace("own")
    caller.principal = site.caller(own.workspace_id, INFERENCE)
    page = call("ListWorkspaces", pb.ListWorkspacesRequest(page_size=10))
    assert ([workspace.name for workspace in page.workspaces], page.next_page_token) == (["own"], "")


def test_update_changes_only_what_the_mask_names(site: Site, call: SyncRpc) -> None:
    """A field outside the mask is ignored; an allowance that is named but absent takes the limit away."""
    workspace_id = site.workspace("old").workspace_id
    limited = call(
        "UpdateWorkspace", _update(workspace_id, "daily_message_allowance", daily_message_allowance=5, name="x")
    )
    assert (limited.workspace.name, limited.workspace.daily_message_allowance) == ("old", 5)
    named = call("UpdateWorkspace", _update(workspace_id, "name", name="new"))
    assert (named.workspace.name, named.workspace.daily_message_allowance) == ("new", 5)
    unlimited = call("UpdateWorkspace", _update(workspace_id, "daily_message_allowance"))
    assert not unlimited.workspace.HasField("daily_message_allowance")


def test_limits_of_a_workspace_come_and_go(call: SyncRpc) -> None:
    """Each is set at creation or by its own path; one that is named but absent is the default."""
    made = call(
        "CreateWorkspace",
        pb.CreateWorkspaceRequest(name="n", monthly_message_allowance=9, at_allowance=pb.AT_ALLOWANCE_ALLOW),
    ).workspace
    assert (made.HasField("daily_message_allowance"), made.monthly_message_allowance) == (False, 9)
    assert (made.at_allowance, made.HasField("disable_time")) == (pb.AT_ALLOWANCE_ALLOW, False)

    def update(*paths: str, **fields: Any) -> pb.Workspace:
        changed: pb.Workspace = call("UpdateWorkspace", _update(made.workspace_id, *paths, **fields)).workspace
        return changed

    disabled = update("disabled", disabled=True, monthly_message_allowance=1, at_allowance=pb.AT_ALLOWANCE_REFUSE)
    assert disabled.HasField("disable_time")
    assert (disabled.monthly_message_allowance, disabled.at_allowance) == (9, pb.AT_ALLOWANCE_ALLOW)
    cleared = update("monthly_message_allowance", "at_allowance", "disabled")
    assert (cleared.HasField("monthly_message_allowance"), cleared.HasField("disable_time")) == (False, False)
    assert cleared.at_allowance == pb.AT_ALLOWANCE_REFUSE


def test_what_happens_at_the_allowance_must_be_known(servicer: WorkspaceService) -> None:
    """A number that is newer than this core is refused by name rather than guessed."""
    request = pb.CreateWorkspaceRequest(name="n", at_allowance=7)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest) as caught:
        servicer.CreateWorkspace(request, None)
    assert caught.value.metadata == {"param": "at_allowance", "code": "invalid_value"}


@pytest.mark.parametrize(("given", "kept"), [(None, True), (True, True), (False, False)])
def test_a_workspace_keeps_responses_unless_told_not_to(call: SyncRpc, given: bool | None, kept: bool) -> None:
    """Whether responses are kept is told always, and is true where nothing was said."""
    made = call("CreateWorkspace", pb.CreateWorkspaceRequest(name="n", store_responses=given)).workspace
    assert (made.HasField("store_responses"), made.store_responses) == (True, kept)


def test_storage_is_turned_off_and_on(site: Site, caller: FakeCaller, call: SyncRpc) -> None:
    """Its own admin decides; a field outside the mask is ignored, one that is named but absent is the default."""
    own = site.workspace("own").workspace_id
    caller.principal = site.caller(own, INFERENCE, WORKSPACE_ADMIN)
    for request, kept in (
        (_update("", "name", name="n", store_responses=False), True),
        (_update("", "store_responses", store_responses=False), False),
        (_update("", "name", name="n"), False),
        (_update("", "store_responses"), True),
    ):
        assert call("UpdateWorkspace", request).workspace.store_responses is kept


@pytest.mark.parametrize("paths", [[], ["workspace_id"], ["name", "create_time"]])
def test_mask_names_changeable_fields(servicer: WorkspaceService, paths: list[str]) -> None:
    """An empty mask and one with anything else than a changeable field are refused."""
    with pytest.raises(InvalidRequest) as caught:
        servicer.UpdateWorkspace(_update("", *paths), None)
    assert caught.value.metadata == {"param": "update_mask", "code": "invalid_value"}


def test_workspace_cannot_raise_its_own_bill(site: Site, caller: FakeCaller, servicer: WorkspaceService) -> None:
    """Its admin may rename it; the allowance is for the platform's admin, also when it is cleared."""
    own = site.workspace("own").workspace_id
    caller.principal = site.caller(own, INFERENCE, WORKSPACE_ADMIN)
    assert servicer.UpdateWorkspace(_update("", "name", name="n"), None).workspace.name == "n"
    for fields in ({}, {"daily_message_allowance": 5}):
        with pytest.raises(ScopeMissing) as caught:
            servicer.UpdateWorkspace(_update(own, "daily_message_allowance", **fields), None)
        assert caught.value.metadata == {"scope": PLATFORM_ADMIN}


def test_other_workspaces_are_unknown(site: Site, caller: FakeCaller, servicer: WorkspaceService) -> None:
    """An existing foreign workspace and one that never was are answered alike."""
    foreign = site.workspace("foreign").workspace_id
    caller.principal = site.caller(site.workspace().workspace_id, INFERENCE, WORKSPACE_ADMIN)
    for workspace_id in (foreign, "ws_" + "0" * 20):
        with pytest.raises(WorkspaceNotFound) as got:
            servicer.GetWorkspace(pb.GetWorkspaceRequest(workspace_id=workspace_id), None)
        with pytest.raises(WorkspaceNotFound) as updated:
            servicer.UpdateWorkspace(_update(workspace_id, "name", name="n"), None)
        assert got.value.metadata == updated.value.metadata == {"workspace_id": workspace_id}


def test_only_the_platform_admin_makes_workspaces(site: Site, caller: FakeCaller, servicer: WorkspaceService) -> None:
    """A tenant cannot make another allowance for itself."""
    caller.principal = site.caller(site.workspace().workspace_id, INFERENCE, WORKSPACE_ADMIN)
    with pytest.raises(ScopeMissing) as caught:
        servicer.CreateWorkspace(pb.CreateWorkspaceRequest(name="n"), None)
    assert caught.value.metadata == {"scope": PLATFORM_ADMIN}


@pytest.mark.parametrize("allowance", [-1, MAX_ALLOWANCE_MESSAGES + 1])
def test_allowance_is_bounded(servicer: WorkspaceService, allowance: int) -> None:
    """An allowance is 0 to 10^12 messages, at creation and later."""
    for call in (
        lambda: servicer.CreateWorkspace(pb.CreateWorkspaceRequest(name="n", daily_message_allowance=allowance), None),
        lambda: servicer.UpdateWorkspace(
            _update("", "daily_message_allowance", daily_message_allowance=allowance), None
        ),
    ):
        with pytest.raises(InvalidRequest) as caught:
            call()
        assert caught.value.metadata == {"param": "daily_message_allowance"}


@pytest.mark.parametrize("page", [{"page_size": -1}, {"page_size": 1_001}, {"page_token": "junk"}])
def test_page_is_checked(servicer: WorkspaceService, page: dict[str, Any]) -> None:
    """A page size out of range and a token that is none are refused by name."""
    with pytest.raises(InvalidRequest) as caught:
        servicer.ListWorkspaces(pb.ListWorkspacesRequest(**page), None)
    assert caught.value.metadata["param"] == next(iter(page))
