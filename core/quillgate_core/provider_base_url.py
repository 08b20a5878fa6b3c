"""Where a workspace may have its provider reached: base URLs that come in requests, and are never trusted. Pure.

The form is narrow on purpose: whatever passes is read the same way by every parser of URLs. What a host that is an
address, or local by its form, gives away is refused here; which address a name has is looked at when it is connected
to, and every address is judged again then.
"""

import ipaddress
import re
from collections.abc import Callable
from typing import Final, TypeAlias

from quillgate_core.errors import InvalidRequest

MAX_CHARACTERS: Final = 2_048

IsAllowedHost: TypeAlias = Callable[[str, int], bool]
"""Tells whether the operator allows a host and port, which then may be plain http and have a private address."""

UrlDenial: TypeAlias = Callable[[str], str | None]
"""Tells why nothing may be sent to a URL whose host is not allowed, as far as its form shows; None: it does not."""

_BASE_URL: Final = re.compile(
    r"(?P<scheme>https?)://(?:(?P<name>[A-Za-z0-9._-]{1,253})|\[(?P<ipv6>[0-9A-Fa-f:.]{2,45})\])(?::(?P<port>[0-9]{1,5}))?"
    r"(?:/[A-Za-z0-9._~!$&'()*+,;=:@%-]*)*"
)
_LABEL: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_DEFAULT_PORTS: Final = {"https": 443, "http": 80}


def check_base_url(base_url: str, is_allowed_host: IsAllowedHost, url_denial: UrlDenial) -> str:
    """Returns the URL without slashes at its end, empty as it is; raises InvalidRequest, which never repeats it."""
    if not base_url:
        return ""
    parts = _parts(base_url)
    if parts is None:
        raise _refusal("must be an https URL with a host, without user, query or fragment")
    scheme, host, port = parts
    if is_allowed_host(host, port):
        return base_url.rstrip("/")
    if scheme != "https":
        raise _refusal("must be https: the operator does not allow plain http for its host")
    if url_denial(base_url) is not None:
        raise _refusal("must have a public host: the operator does not allow this one")
    return base_url.rstrip("/")


def is_allowed_base_url(base_url: str, is_allowed_host: IsAllowedHost) -> bool:
    """Tells whether the operator allows the host of a URL that was checked before."""
    parts = _parts(base_url)
    return parts is not None and is_allowed_host(parts[1], parts[2])


def _parts(base_url: str) -> tuple[str, str, int] | None:
    match = _BASE_URL.fullmatch(base_url) if len(base_url) <= MAX_CHARACTERS else None
    if match is None:
        return None
    port = int(match["port"]) if match["port"] else _DEFAULT_PORTS[match["scheme"]]
    is_host = _is_ipv6(match["ipv6"]) if match["ipv6"] else _is_name(match["name"])
    host = (match["ipv6"] or match["name"]).lower()
    return (match["scheme"], host, port) if is_host and 0 < port < 65_536 else None


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def _is_name(text: str) -> bool:
    """Tells whether it is labels between dots, those that stand for other letters (`xn--`) being well formed."""
    try:
        text.encode().decode("idna")
    except UnicodeError:
        return False
    return all(_LABEL.fullmatch(label) for label in text.removesuffix(".").split("."))


def _refusal(rule: str) -> InvalidRequest:
    return InvalidRequest(f"'base_url' {rule}.", param="base_url", code="invalid_value")
