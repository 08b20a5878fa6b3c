"""Finds the `Idempotency-Key` of a request. What it means for a repeat, only the core knows."""

import re

from multidict import CIMultiDictProxy

from quillgate_facade.errors import ApiError

_KEY = re.compile(r"[!-~]{1,255}")


def idempotency_key_of(headers: CIMultiDictProxy[str]) -> str | None:
    """Returns the key, None without one; raises ApiError 400 for two different ones or one that cannot be used."""
    found = set(headers.getall("idempotency-key", ()))
    if not found:
        return None
    key = found.pop()
    if found or _KEY.fullmatch(key) is None:
        message = "Idempotency-Key must be one value of 1 to 255 visible ASCII characters."
        raise ApiError(400, message, param="idempotency-key", code="invalid_value")
    return key
