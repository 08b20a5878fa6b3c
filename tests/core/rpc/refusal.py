"""What a failed call said, in a form that a test compares at once."""

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from quillgate_codec import error_info


@dataclass(frozen=True)
class Refusal:
    """The status of a failed call with its ErrorInfo."""

    code: grpc.StatusCode
    reason: str
    metadata: dict[str, str]


async def refusal_of(call: Awaitable[Any]) -> Refusal:
    """Awaits a call that must fail with an ErrorInfo, and returns what it said."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return read_refusal(caught.value)


def read_refusal(error: grpc.aio.AioRpcError) -> Refusal:
    """Reads the ErrorInfo of a failed call."""
    info = error_info(error)
    assert info is not None
    assert info.domain == "quillgate"
    return Refusal(error.code(), info.reason, dict(info.metadata))
