"""The core as the facade sees it: stubs on one channel, and what every call carries. Knows no HTTP status.

The channel may be a network channel or one inside the process; both have the shape of `grpc.aio.Channel`.
"""

import asyncio
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, TypeVar, cast

import grpc.aio
from grpc_health.v1 import health_pb2_grpc

from quillgate.v1.completion_service_pb2_grpc import CompletionServiceStub
from quillgate.v1.metering_service_pb2_grpc import MeteringServiceStub
from quillgate.v1.model_service_pb2_grpc import ModelServiceStub
from quillgate.v1.response_service_pb2_grpc import ResponseServiceStub
from quillgate_facade.drain import Drain
from quillgate_facade.errors import from_rpc, stopping

if TYPE_CHECKING:
    from quillgate.v1.completion_service_pb2_grpc import CompletionServiceAsyncStub
    from quillgate.v1.metering_service_pb2_grpc import MeteringServiceAsyncStub
    from quillgate.v1.model_service_pb2_grpc import ModelServiceAsyncStub
    from quillgate.v1.response_service_pb2_grpc import ResponseServiceAsyncStub

ReceivedT = TypeVar("ReceivedT")

#: The metadata of a call, in the form that grpc.aio takes.
CallMetadata = tuple[tuple[str, str], ...]


class CoreClient:
    """The services of the core that the facade uses."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.completions = cast("CompletionServiceAsyncStub", CompletionServiceStub(channel))
        self.metering = cast("MeteringServiceAsyncStub", MeteringServiceStub(channel))
        self.models = cast("ModelServiceAsyncStub", ModelServiceStub(channel))
        self.responses = cast("ResponseServiceAsyncStub", ResponseServiceStub(channel))
        self.health = cast("Any", health_pb2_grpc.HealthStub(channel))  # its typed stub knows sync calls only


def call_metadata(
    *, credential: str, request_id: str, idempotency_key: str | None = None, session: str = ""
) -> CallMetadata:
    """Returns what tells the core who asks and under which id; it meters the request under that id.

    With an `idempotency_key` it serves and charges one of the requests that have the same. A `session` names the
    conversation, whose requests go to the same upstream among equals.
    """
    metadata: CallMetadata = (("authorization", f"Bearer {credential}"), ("x-request-id", request_id))
    if idempotency_key is not None:
        metadata = (*metadata, ("idempotency-key", idempotency_key))
    return (*metadata, ("x-session-id", session)) if session else metadata


class CoreCall:
    """One call to the core for one client: its errors become ApiErrors, and it never outlives its request.

    Use `receive` for each step and `close` at the end, whatever happened.
    """

    __slots__ = ("_call", "_credential", "_drain", "_request_id")

    def __init__(self, call: grpc.aio.Call, drain: Drain, *, credential: str, request_id: str) -> None:
        self._call = call
        self._drain = drain
        self._credential = credential
        self._request_id = request_id
        drain.add(call)

    async def receive(self, step: Awaitable[ReceivedT]) -> ReceivedT:
        """Awaits one step of the call; raises ApiError when it fails.

        A call that the drain ended raises CancelledError, in some channels by cancelling this task: that is undone and
        told to the client. A task that is cancelled because its client hung up stays cancelled.
        """
        try:
            return await step
        except grpc.RpcError as error:
            raise from_rpc(error, credential=self._credential, request_id=self._request_id) from None
        except asyncio.CancelledError:
            if not self._drain.has_ended(self._call):
                raise
            _uncancel_current_task()
            raise stopping() from None

    def close(self) -> None:
        """Cancels the call if it still runs, so that the provider stops too."""
        self._drain.remove(self._call)
        self._call.cancel()


def _uncancel_current_task() -> None:
    task = asyncio.current_task()
    while task is not None and task.cancelling():
        task.uncancel()
