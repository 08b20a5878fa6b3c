"""Finds the one credential of a request. Whether it is good, only the core can tell."""

from collections.abc import Iterable

from multidict import CIMultiDictProxy

from quillgate_facade.errors import ApiError, incorrect_key, missing_key

#: Names under which other services take a key; not accepted, but a second, different key in one request is refused.
_OTHER_HEADERS = ("api-key", "x-api-key")
_SCHEME = "bearer "
_MAX_CHARACTERS = 512


def credential_of(headers: CIMultiDictProxy[str]) -> str:
    """Returns what stands after `Bearer`.

    Raises ApiError: 401 when there is none or it cannot be a key (gRPC metadata holds visible ASCII only, and 16 KiB),
    400 when the request carries two different ones, because proxies and servers disagree on which of them counts.
    """
    values = headers.getall("authorization", ())
    found = {_bearer(value) for value in values}
    credential = next(iter(found), "")
    if len(found) > 1 or _differs(credential, headers):
        raise ApiError(400, "The request carries two different API keys. Send one Authorization header.")
    if not credential:
        raise missing_key()
    if len(credential) > _MAX_CHARACTERS or not _is_visible(credential):
        raise incorrect_key(credential)
    return credential


def _bearer(value: str) -> str:
    return value[len(_SCHEME) :].strip() if value[: len(_SCHEME)].lower() == _SCHEME else ""


def _differs(credential: str, headers: CIMultiDictProxy[str]) -> bool:
    if not credential:
        return False
    others: Iterable[str] = (value for name in _OTHER_HEADERS if name in headers for value in headers.getall(name))
    return any(value.strip() != credential for value in others)


def _is_visible(text: str) -> bool:
    return text.isascii() and text.isprintable() and " " not in text
