"""Drives plain `def` servicers through grpcio-testing: requests and answers pass through gRPC's own call machinery."""

from typing import Any

import grpc
import grpc_testing
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message

from quillgate_core.principal import Principal
from quillgate_core.rpc.call import Call


class FakeCaller:
    """Who calls, as a test decides; pass it to a servicer as its `call`."""

    def __init__(self, principal: Principal) -> None:
        self.principal = principal

    def __call__(self) -> Call:
        return Call("req_test", self.principal)


class SyncRpc:
    """One servicer behind a testing server; errors are tested on the servicer itself, which nothing translates here."""

    def __init__(self, service: ServiceDescriptor, servicer: object) -> None:
        self._service = service
        self._server = grpc_testing.server_from_dictionary({service: servicer}, grpc_testing.strict_real_time())

    def __call__(self, method: str, request: Message) -> Any:
        """Invokes a unary method, asserts the status OK, and returns the answer."""
        descriptor = self._service.methods_by_name[method]
        rpc = self._server.invoke_unary_unary(descriptor, (), request, 5)
        response, _, code, details = rpc.termination()
        assert code == grpc.StatusCode.OK, details
        assert response.DESCRIPTOR is descriptor.output_type
        return response
