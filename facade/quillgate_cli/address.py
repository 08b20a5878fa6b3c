"""Where core is, as the operator writes it, and whether a key may travel there in the clear. Pure: connects nowhere."""

import ipaddress
import re
from dataclasses import dataclass

from quillgate_cli.failure import WrongUsage

_HOST_PORT = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9._-]+)):(?P<port>[0-9]{1,5})")
_FORMS = "write HOST:PORT, [IPV6]:PORT or unix:///PATH"


@dataclass(frozen=True, slots=True)
class CoreAddress:
    """A place that gRPC can connect to; `local` tells that nothing leaves this machine on the way."""

    target: str
    local: bool


def parse_address(text: str) -> CoreAddress:
    """Reads `HOST:PORT`, `[IPV6]:PORT` or `unix:///PATH`; raises WrongUsage for anything else.

    Other gRPC schemes are refused: they could name several hosts, of which only the first would be judged.
    """
    if text.startswith("unix:"):
        if not text.removeprefix("unix:").lstrip("/"):
            raise WrongUsage(f"the address '{text}' names no socket: {_FORMS}")
        return CoreAddress(text, local=True)
    match = _HOST_PORT.fullmatch(text)
    if match is None or not 0 < int(match["port"]) < 65536:
        raise WrongUsage(f"'{text}' is no address: {_FORMS}")
    return CoreAddress(text, local=_is_loopback(match["v6"] or match["host"]))


def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
