"""The one way a command ends badly: one line for people and an exit code for scripts.

It turns a failed gRPC call into that line. It must not print, and must never put a key into a message: nothing of the
request's metadata is ever read here.
"""

import enum
from typing import cast

import grpc

from quillgate.v1.error_reason_pb2 import ErrorInfo
from quillgate_codec import error_info


class ExitCode(enum.IntEnum):
    """What the process ends with; the table in `main` documents it for scripts."""

    OK = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3
    NOT_FOUND = 4
    UNREACHABLE = 5
    INTERRUPTED = 130
    PIPE_CLOSED = 141


class Failure(Exception):
    """A command that cannot go on; `message` is one line and holds no secret."""

    def __init__(self, message: str, exit_code: ExitCode, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.exit_code = exit_code
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class WrongUsage(Failure):
    """What was typed can never work; nothing was sent."""

    def __init__(self, message: str) -> None:
        super().__init__(message, ExitCode.USAGE)


_EXIT_CODES = {
    grpc.StatusCode.UNAUTHENTICATED: ExitCode.REFUSED,
    grpc.StatusCode.PERMISSION_DENIED: ExitCode.REFUSED,
    grpc.StatusCode.NOT_FOUND: ExitCode.NOT_FOUND,
    grpc.StatusCode.UNAVAILABLE: ExitCode.UNREACHABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: ExitCode.UNREACHABLE,
}

KEY_HINT = "set QUILLGATE_KEY or --key-file"
_HINTS = {
    "KEY_INVALID": KEY_HINT,
    "KEY_NOT_FOUND": "`quillgate keys list` shows the keys of a workspace",
    "KEY_REVOKED": "make another with `quillgate keys create`",
    "MODEL_NOT_FOUND": "`quillgate models` lists them",
    "PROVIDER_CREDENTIAL_NOT_FOUND": "`quillgate credentials list` shows those that it has",
    "RESERVATION_NOT_FOUND": "requests of archived days are in their files only",
    "WORKSPACE_NOT_FOUND": "`quillgate workspaces list` shows those that your key can see",
}


def call_failure(error: grpc.RpcError, *, address: str, tls: bool, deadline_s: float) -> Failure:
    """Returns what to tell of a failed call: the server's words, or ours when it never spoke."""
    info = error_info(error)
    call = cast("grpc.Call", error)  # what a sync stub raises is the call itself
    if info is None:
        return _transport_failure(call, address=address, tls=tls, deadline_s=deadline_s)
    message = call.details() or info.reason
    return Failure(message, _EXIT_CODES.get(call.code(), ExitCode.FAILED), hint=_hint(info, message))


def _hint(info: ErrorInfo, message: str) -> str:
    metadata = info.metadata
    if info.reason == "OVERLOADED":
        return f"try again in {metadata.get('retry_after_s', '1')} s"
    if info.reason == "INTERNAL" and metadata.get("request_id"):
        return f"request {metadata['request_id']}; the server's log says more"
    if info.reason == "INVALID_REQUEST" and metadata.get("param", "") not in message:
        return metadata["param"]
    return _HINTS.get(info.reason, "")


def _transport_failure(error: grpc.Call, *, address: str, tls: bool, deadline_s: float) -> Failure:
    """Without ErrorInfo it is not core that answered, or nobody did."""
    code = error.code()
    if code == grpc.StatusCode.UNAVAILABLE:
        doubt = "is it running there, and does its certificate fit?" if tls else "is `quillgate serve` running?"
        return Failure(f"cannot reach core at {address}: {doubt}", ExitCode.UNREACHABLE)
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        text = f"core at {address} did not answer within {deadline_s:g} s"
        return Failure(
            text, ExitCode.UNREACHABLE, hint="a change may have been made all the same: look before repeating"
        )
    if code == grpc.StatusCode.RESOURCE_EXHAUSTED:
        return Failure(f"core at {address} is overloaded", ExitCode.UNREACHABLE, hint="try again in a moment")
    if code == grpc.StatusCode.UNIMPLEMENTED:
        return Failure(
            f"what listens at {address} does not know this call", ExitCode.FAILED, hint="is it quillgate's core?"
        )
    text = error.details() or "no details"
    return Failure(f"{code.name}: {text}", _EXIT_CODES.get(code, ExitCode.FAILED))
