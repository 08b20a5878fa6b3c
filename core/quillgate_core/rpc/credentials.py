"""Reads what a caller presents in gRPC metadata: its key, its request id, its idempotency key. Decides nothing."""

import re
import uuid
from collections.abc import Iterable

from quillgate_core.errors import InvalidRequest, KeyInvalid

_REQUEST_ID = re.compile(r"[!-~]{1,128}")
_SESSION_ID = re.compile(r"[!-~]{1,256}")
_IDEMPOTENCY_KEY = re.compile(r"[!-~]{1,255}")
_KEY_MAX_CHARACTERS = 256

#: What `invocation_metadata()` returns, as this service reads it.
Metadata = Iterable[tuple[str, str | bytes]]


def new_request_id() -> str:
    """Makes the id of a request that came without one."""
    return f"req_{uuid.uuid4().hex}"


def request_id_of(metadata: Metadata) -> str:
    """Returns the caller's `x-request-id`, or a new one; raises InvalidRequest unless it is 1-128 visible ASCII."""
    for name, value in metadata:
        if name == "x-request-id":
            if isinstance(value, str) and _REQUEST_ID.fullmatch(value):
                return value
            raise InvalidRequest("x-request-id must be 1 to 128 visible ASCII characters.", param="x-request-id")
    return new_request_id()


def session_of(metadata: Metadata) -> str:
    """Returns the caller's `x-session-id`, empty without one; raises InvalidRequest unless it is visible ASCII."""
    for name, value in metadata:
        if name == "x-session-id":
            if isinstance(value, str) and _SESSION_ID.fullmatch(value):
                return value
            raise InvalidRequest("x-session-id must be 1 to 256 visible ASCII characters.", param="x-session-id")
    return ""


def idempotency_key_of(metadata: Metadata) -> str | None:
    """Returns the caller's `idempotency-key`, None without one; raises InvalidRequest for one that cannot be used."""
    found = {value for name, value in metadata if name == "idempotency-key"}
    if not found:
        return None
    key = found.pop()
    if found or not isinstance(key, str) or _IDEMPOTENCY_KEY.fullmatch(key) is None:
        raise InvalidRequest("Idempotency-Key must be 1 to 255 visible ASCII characters.", param="idempotency-key")
    return key


def presented_key(metadata: Metadata) -> str:
    """Returns the Bearer key; raises KeyInvalid without one, InvalidRequest for two different ones."""
    found: set[str] = set()
    for name, value in metadata:
        if name == "authorization" and isinstance(value, str):
            scheme, _, secret = value.partition(" ")
            if scheme.lower() != "bearer":
                raise KeyInvalid()
            found.add(secret.strip())
    if len(found) > 1:
        raise InvalidRequest("Two different keys were presented.", param="authorization")
    if not found:
        raise KeyInvalid("No API key was presented: send `authorization: Bearer <key>`.")
    secret = found.pop()
    if not secret or len(secret) > _KEY_MAX_CHARACTERS:
        raise KeyInvalid()
    return secret
