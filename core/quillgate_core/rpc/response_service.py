"""ResponseService: between the contract and `StoredResponses`; blocking, run in the interceptor's threads."""

from typing import Any

from quillgate.v1 import response_service_pb2 as pb
from quillgate.v1.response_service_pb2_grpc import ResponseServiceServicer
from quillgate_core.rpc.call import CurrentCall, current_call
from quillgate_core.stored_responses import StoredResponses


class ResponseService(ResponseServiceServicer):
    """Serves the RPCs of stored responses."""

    def __init__(self, responses: StoredResponses, call: CurrentCall = current_call) -> None:
        self._responses = responses
        self._call = call

    def GetResponse(self, request: pb.GetResponseRequest, context: Any) -> pb.GetResponseResponse:  # noqa: N802
        """Returns a response."""
        response = self._responses.get(self._call().principal, request.response_id)
        return pb.GetResponseResponse(response=response)

    def DeleteResponse(  # noqa: N802
        self, request: pb.DeleteResponseRequest, context: Any
    ) -> pb.DeleteResponseResponse:
        """Forgets a response."""
        self._responses.delete(self._call().principal, request.response_id)
        return pb.DeleteResponseResponse()

    def ListResponseInputItems(  # noqa: N802
        self, request: pb.ListResponseInputItemsRequest, context: Any
    ) -> pb.ListResponseInputItemsResponse:
        """Lists a page of the input."""
        page = self._responses.list_input_items(
            self._call().principal,
            request.response_id,
            limit=request.limit,
            order=request.order,
            after=request.after,
        )
        return pb.ListResponseInputItemsResponse(page=page)
