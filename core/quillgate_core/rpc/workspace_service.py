"""WorkspaceService: translates between the contract and `Workspaces`; blocking, run in the interceptor's threads."""

from typing import Any, Final

from quillgate.v1 import workspace_service_pb2 as pb
from quillgate.v1.workspace_service_pb2_grpc import WorkspaceServiceServicer
from quillgate_core.rpc.call import CurrentCall, current_call
from quillgate_core.rpc.convert import from_workspace
from quillgate_core.rpc.masks import masked
from quillgate_core.unchanged import UNCHANGED
from quillgate_core.workspaces import WorkspaceChanges, Workspaces

_CHANGEABLE: Final = frozenset({"name", "daily_message_allowance", "store_responses"})


class WorkspaceService(WorkspaceServiceServicer):
    """Serves the workspace RPCs."""

    def __init__(self, workspaces: Workspaces, call: CurrentCall = current_call) -> None:
        self._workspaces = workspaces
        self._call = call

    def CreateWorkspace(  # noqa: N802
        self, request: pb.CreateWorkspaceRequest, context: Any
    ) -> pb.CreateWorkspaceResponse:
        """Makes a workspace."""
        allowance = request.daily_message_allowance if request.HasField("daily_message_allowance") else None
        workspace = self._workspaces.create(
            self._call().principal,
            name=request.name,
            daily_message_allowance=allowance,
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
        allowance = request.daily_message_allowance if request.HasField("daily_message_allowance") else None
        changes = WorkspaceChanges(
            name=request.name if "name" in named else UNCHANGED,
            daily_message_allowance=allowance if "daily_message_allowance" in named else UNCHANGED,
            store_responses=_store_responses(request) if "store_responses" in named else UNCHANGED,
        )
        workspace = self._workspaces.update(self._call().principal, request.workspace_id, changes=changes)
        return pb.UpdateWorkspaceResponse(workspace=from_workspace(workspace))


def _store_responses(request: pb.CreateWorkspaceRequest | pb.UpdateWorkspaceRequest) -> bool:
    return request.store_responses if request.HasField("store_responses") else True
