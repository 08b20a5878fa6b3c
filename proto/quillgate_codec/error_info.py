"""Reads the machine-readable cause of a failed gRPC call; the causes are listed in `error_reason.proto`."""

from collections.abc import Iterable
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from quillgate.v1 import error_reason_pb2

STATUS_DETAILS_KEY = "grpc-status-details-bin"
ERROR_INFO_TYPE = "type.googleapis.com/google.rpc.ErrorInfo"


def error_info(error: grpc.RpcError) -> error_reason_pb2.ErrorInfo | None:
    """Returns the `google.rpc.ErrorInfo` of a failed call, sync or aio; None when the server sent none."""
    trailers: Iterable[tuple[str, Any]] = getattr(error, "trailing_metadata", tuple)() or ()
    for key, value in trailers:
        if key == STATUS_DETAILS_KEY:
            return _first_info(value)
    return None


def _first_info(data: bytes) -> error_reason_pb2.ErrorInfo | None:
    try:
        for detail in error_reason_pb2.ErrorStatus.FromString(data).details:
            if detail.type_url == ERROR_INFO_TYPE:
                return error_reason_pb2.ErrorInfo.FromString(detail.value)
    except DecodeError:
        return None
    return None
