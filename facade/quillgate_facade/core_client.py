"""The core as the facade sees it: stubs on one channel, and what every call carries. Knows no HTTP status.

The channel may be a network channel or one inside the process; both have the shape of `grpc.aio.Channel`.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import grpc.aio
from grpc_health.v1 import health_pb2_grpc
from quillgate.v1.completion_service_pb2_grpc import CompletionServiceStub
from quillgate.v1.model_service_pb2_grpc import ModelServiceStub

from quillgate_facade.errors import from_rpc, stopping

if TYPE_CHECKING:
    from grpc_health.v1.health_pb2_grpc import HealthAsyncStub
    from quillgate.v1.completion_service_pb2_grpc import CompletionServiceAsyncStub
    from quillgate.v1.model_service_pb2_grpc import ModelServiceAsyncStub

#: The metadata of a call, in the form that grpc.aio takes.
CallMetadata = tuple[tuple[str, str], ...]


class CoreClient:
    """The services of the core that the facade uses."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.completions = cast("CompletionServiceAsyncStub", CompletionServiceStub(channel))
        self.models = cast("ModelServiceAsyncStub", ModelServiceStub(channel))
        self.health = cast("HealthAsyncStub", health_pb2_grpc.HealthStub(channel))


def call_metadata(*, credential: str, request_id: str) -> CallMetadata:
    """Returns what tells the core who asks and under which id; it meters the request under that id."""
    return (("authorization", f"Bearer {credential}"), ("x-request-id", request_id))


@contextmanager
def translated_errors(*, credential: str, request_id: str) -> Iterator[None]:
    """Turns the failure of a call into an ApiError.

    A call that the drain cancels raises CancelledError in a task that nobody cancelled: that is told to the client. A
    task that is itself cancelled, because its client hung up, stays cancelled.
    """
    try:
        yield
    except grpc.RpcError as error:
        raise from_rpc(error, credential=credential, request_id=request_id) from None
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise stopping() from None
