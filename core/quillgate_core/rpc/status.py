"""The first of the two translations of an error: exception -> gRPC status with `google.rpc.ErrorInfo`."""

import grpc

from quillgate.v1 import error_reason_pb2
from quillgate_codec.error_info import ERROR_INFO_TYPE, STATUS_DETAILS_KEY
from quillgate_core import errors

DOMAIN = "quillgate"

MAX_MESSAGE_CHARACTERS = 500
MAX_VALUE_CHARACTERS = 200
"""What callers sent comes back in errors; without a bound it would not fit into gRPC's trailers (16 KiB)."""

_CODES: dict[type[errors.QuillgateError], grpc.StatusCode] = {
    errors.InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    errors.KeyInvalid: grpc.StatusCode.UNAUTHENTICATED,
    errors.ScopeMissing: grpc.StatusCode.PERMISSION_DENIED,
    errors.ModelNotAllowed: grpc.StatusCode.PERMISSION_DENIED,
    errors.WorkspaceDisabled: grpc.StatusCode.PERMISSION_DENIED,
    errors.ModelNotFound: grpc.StatusCode.NOT_FOUND,
    errors.KeyNotFound: grpc.StatusCode.NOT_FOUND,
    errors.WorkspaceNotFound: grpc.StatusCode.NOT_FOUND,
    errors.ReservationNotFound: grpc.StatusCode.NOT_FOUND,
    errors.ResponseNotFound: grpc.StatusCode.NOT_FOUND,
    errors.ProviderCredentialNotFound: grpc.StatusCode.NOT_FOUND,
    errors.DuplicateRequest: grpc.StatusCode.ALREADY_EXISTS,
    errors.ReservationClosed: grpc.StatusCode.FAILED_PRECONDITION,
    errors.DuplicateInProgress: grpc.StatusCode.ABORTED,
    errors.AlreadyCompleted: grpc.StatusCode.ALREADY_EXISTS,
    errors.IdempotencyMismatch: grpc.StatusCode.INVALID_ARGUMENT,
    errors.KeyRevoked: grpc.StatusCode.FAILED_PRECONDITION,
    errors.AliasTaken: grpc.StatusCode.ALREADY_EXISTS,
    errors.LedgerDayKept: grpc.StatusCode.FAILED_PRECONDITION,
    errors.RateLimited: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.AllowanceExhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.ProviderRejected: grpc.StatusCode.INVALID_ARGUMENT,
    errors.ProviderUnavailable: grpc.StatusCode.UNAVAILABLE,
    errors.ProviderTimeout: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.ProviderCredentialRejected: grpc.StatusCode.UNAUTHENTICATED,
    errors.Overloaded: grpc.StatusCode.UNAVAILABLE,
}

_NUMBERS: dict[grpc.StatusCode, int] = {code: code.value[0] for code in grpc.StatusCode}

#: Metadata keys that a reason always has, empty where the raiser had nothing to say.
_ALWAYS: dict[str, tuple[str, ...]] = {
    "INVALID_REQUEST": ("param", "code"),
    "PROVIDER_REJECTED": ("provider", "code", "param"),
}


def grpc_code(error: errors.QuillgateError) -> grpc.StatusCode:
    """Returns the gRPC code of an error; INTERNAL for one that has no row."""
    return _CODES.get(type(error), grpc.StatusCode.INTERNAL)


def status_text(error: errors.QuillgateError) -> str:
    """Returns the message of an error as it is sent: cut where it is too long."""
    return _cut(error.message, MAX_MESSAGE_CHARACTERS)


def trailing_metadata(error: errors.QuillgateError) -> tuple[tuple[str, bytes], ...]:
    """Returns the status details that carry the reason and its metadata."""
    metadata = dict.fromkeys(_ALWAYS.get(error.reason, ()), "")
    metadata |= {key: _cut(value, MAX_VALUE_CHARACTERS) for key, value in error.metadata.items()}
    info = error_reason_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata)
    status = error_reason_pb2.ErrorStatus(code=_NUMBERS[grpc_code(error)], message=status_text(error))
    status.details.add(type_url=ERROR_INFO_TYPE, value=info.SerializeToString())
    return ((STATUS_DETAILS_KEY, status.SerializeToString()),)


def _cut(text: str, max_characters: int) -> str:
    return text if len(text) <= max_characters else text[: max_characters - 1] + "…"
