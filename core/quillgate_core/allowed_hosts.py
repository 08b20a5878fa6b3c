"""Which hosts the operator lets workspaces name in base URLs of their own, though they may be private. Pure.

An entry is a host, for any port, or `host:port`: `vllm.internal`, `10.1.2.3:8000`, `[fd00::5]:8000`. A host is compared
as it is written, but for case and a last dot; what is not exactly an entry is not allowed, so another spelling of an
allowed address is at worst refused.
"""

import ipaddress
import re
from collections.abc import Iterable

_ENTRY = re.compile(r"(?:\[(?P<ipv6>[0-9a-fA-F:.]+)\]|(?P<name>[0-9a-zA-Z._-]+))(?::(?P<port>[0-9]{1,5}))?")

RULE = "must be a host or host:port, such as vllm.internal or 10.1.2.3:8000, IPv6 in brackets, other letters as xn--"


def is_entry(text: str) -> bool:
    """Tells whether a text has the form of an entry."""
    return _parse(text) is not None


def allows(entries: Iterable[str], host: str, port: int | None) -> bool:
    """Tells whether a host may be named; `port` is the one that is connected to, None matches only any port."""
    wanted = _plain(host)
    return any(found[0] == wanted and found[1] in (None, port) for entry in entries if (found := _parse(entry)))


def _parse(entry: str) -> tuple[str, int | None] | None:
    match = _ENTRY.fullmatch(entry)
    if match is None:
        return None
    host = _plain(match["ipv6"] or match["name"])
    port = int(match["port"]) if match["port"] else None
    is_host = _is_ipv6(host) if match["ipv6"] else bool(host) and ".." not in host and not host.startswith(".")
    return (host, port) if is_host and (port is None or 0 < port < 65_536) else None


def _plain(host: str) -> str:
    name = host.removeprefix("[").removesuffix("]").removesuffix(".").lower()
    return str(ipaddress.IPv6Address(name)) if _is_ipv6(name) else name


def _is_ipv6(text: str) -> bool:
    try:
        return ipaddress.IPv6Address(text).scope_id is None
    except ValueError:
        return False
