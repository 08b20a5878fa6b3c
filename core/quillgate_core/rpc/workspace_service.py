"""WorkspaceService: translates between the contract and `Workspaces`; blocking, run in the interceptor's threads."""

from typing import Any, Final, Literal, TypeAlias

from quillgate.v1 import workspace_service_pb2 as pb
from quillgate.v1.workspace_service_pb2_grpc import WorkspaceServiceServicer
from quillgate_core.rpc.call import CurrentCall, current_call
from quillgate_core.rpc.convert import from_workspace, to_at_allowance
from quillgate_core.rpc.masks import masked
from quillgate_core.unchanged import UNCHANGED
from quillgate_core.workspaces import WorkspaceChanges, Workspaces

_Allowance: TypeAlias = Literal["daily_message_allowance", "monthly_message_allowance"]
_DAILY: Final = "daily_message_allowance"
_MONTHLY: Final = "monthly_message_allowance"
_CHANGEABLE: Final = frozenset({"name", "store_responses", _DAILY, _MONTHLY, "at_allowance", "disabled"})


class WorkspaceService(WorkspaceServiceServicer):
    """Serves the workspace RPCs."""

    def __init__(self, workspaces: Workspaces, call: CurrentCall = current_call) -> None:
        self._workspaces = workspaces
        self._call = call

    def CreateWorkspace(  # noqa: N802
        self, request: pb.CreateWorkspaceRequest, context: Any
    ) -> pb.CreateWorkspaceResponse:
        """Makes a workspace."""
        workspace = self._workspaces.create(
            self._call().principal,
            name=request.name,
            daily_message_allowance=_allowance(request, _DAILY),
            monthly_message_allowance=_allowance(request, _MONTHLY),
            at_allowance=to_at_allowance(request.at_allowance),
            store_responses=_store_responses(request),
        )
        return pb.CreateWorkspaceResponse(workspace=from_workspace(workspace))

    def GetWorkspace(self, request: pb.GetWorkspaceRequest, context: Any) -> pb.GetWorkspaceResponse:  # noqa: N802
        """Returns a workspace."""
        workspace = self._workspaces.get(self._call().principal, request.workspace_id)
        return pb.GetWorkspaceResponse(workspace=from_workspace(workspace))

    def ListWorkspaces(  # noqa: N802
        self, request: pb.ListWorkspacesRequest, context: Any
    ) -> pb.ListWorkspacesResponse:
        """Lists workspaces."""
        workspaces, next_page_token = self._workspaces.list(
            self._call().principal, page_size=request.page_size, page_token=request.page_token
        )
        return pb.ListWorkspacesResponse(
            workspaces=[from_workspace(workspace) for workspace in workspaces], next_page_token=next_page_token
        )

    def UpdateWorkspace(  # noqa: N802
        self, request: pb.UpdateWorkspaceRequest, context: Any
    ) -> pb.UpdateWorkspaceResponse:
        """Changes a workspace."""
        named = masked(request.update_mask, _CHANGEABLE)
        changes = WorkspaceChanges(
            name=request.name if "name" in named else UNCHANGED,
            daily_message_allowance=_allowance(request, _DAILY) if _DAILY in named else UNCHANGED,
            store_responses=_store_responses(request) if "store_responses" in named else UNCHANGED,
            monthly_message_allowance=_allowance(request, _MONTHLY) if _MONTHLY in named else UNCHANGED,
            at_allowance=to_at_allowance(request.at_allowance) if "at_allowance" in named else UNCHANGED,
            disabled=request.disabled if "disabled" in named else UNCHANGED,
        )
        workspace = self._workspaces.update(self._call().principal, request.workspace_id, changes=changes)
        return pb.UpdateWorkspaceResponse(workspace=from_workspace(workspace))


def _allowance(request: pb.CreateWorkspaceRequest | pb.UpdateWorkspaceRequest, name: _Allowance) -> int | None:
    return int(getattr(request, name)) if request.HasField(name) else None


def _store_responses(request: pb.CreateWorkspaceRequest | pb.UpdateWorkspaceRequest) -> bool:
    return request.store_responses if request.HasField("store_responses") else True
