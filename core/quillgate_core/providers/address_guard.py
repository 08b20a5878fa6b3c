"""Which addresses and URLs a provider may have that nobody but its base URL vouches for: public ones only. Pure.

What is not known to be public is denied, and so is every form of IPv6 that carries an IPv4 address to a gateway
somewhere, whatever the address in it: a provider that lives there would be reachable directly as well. The address is
judged when it is connected to; what a URL looks like is judged only to refuse early what could mean two things.
"""

import ipaddress
import re
from collections.abc import Mapping
from typing import Final, TypeAlias

from yarl import URL

_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

_DENIED: Final[Mapping[str, str]] = {
    "0.0.0.0/8": "this host",
    "10.0.0.0/8": "private",
    "100.64.0.0/10": "shared with a carrier's customers, or a cloud's metadata",
    "127.0.0.0/8": "loopback",
    "168.63.129.16/32": "a cloud's metadata",
    "169.254.0.0/16": "link-local, or a cloud's metadata",
    "172.16.0.0/12": "private",
    "192.0.0.0/24": "for protocols, or a cloud's metadata",
    "192.0.2.0/24": "for documentation",
    "192.31.196.0/24": "anycast into the local network",
    "192.52.193.0/24": "a relay's",
    "192.88.99.0/24": "a relay's",
    "192.168.0.0/16": "private",
    "192.175.48.0/24": "anycast into the local network",
    "198.18.0.0/15": "for benchmarks",
    "198.51.100.0/24": "for documentation",
    "203.0.113.0/24": "for documentation",
    "224.0.0.0/4": "multicast",
    "240.0.0.0/4": "reserved, or broadcast",
    "::/96": "unspecified, loopback, or IPv4 in IPv6",
    "::ffff:0:0/96": "IPv4 in IPv6",
    "::ffff:0:0:0/96": "IPv4 in IPv6",
    "64:ff9b::/96": "IPv4 in IPv6 (NAT64)",
    "64:ff9b:1::/48": "IPv4 in IPv6 (NAT64)",
    "2001::/32": "IPv4 in IPv6 (Teredo)",
    "2001::/23": "for protocols",
    "2001:db8::/32": "for documentation",
    "2002::/16": "IPv4 in IPv6 (6to4)",
    "2620:4f:8000::/48": "anycast into the local network",
    "3fff::/20": "for documentation",
    "fc00::/7": "private, or a cloud's metadata",
    "fe80::/10": "link-local",
    "fec0::/10": "site-local",
    "ff00::/8": "multicast",
}
"""Everything of IANA's registries of special-purpose addresses, and what clouds have made special beside it."""

_NETWORKS: Final[tuple[tuple[_Network, str], ...]] = tuple(
    (ipaddress.ip_network(network), reason) for network, reason in _DENIED.items()
)
_PUBLIC_IPV6: Final = ipaddress.ip_network("2000::/3")
"""All that was ever given out as global unicast."""

_ISATAP: Final = 0x0000_5EFE
_ISATAP_FLAGS: Final = 0x0300_0000
"""The bits of an interface identifier that say whether it is universal and a group's; ISATAP is known with any."""

_NUMBER: Final = re.compile(r"[0-9]+|0[xX][0-9a-fA-F]*")
_PRINTED: Final = re.compile(r"[^\x00-\x20\x7f\\]+")
_VISIBLE_ASCII: Final = re.compile(r"[!-~]+")


def denial(address: str) -> str | None:
    """Returns why an address must not be connected to, None for a public one."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return "not an IP address"
    reason = next((reason for network, reason in _NETWORKS if ip in network), None)
    if reason is not None:
        return reason
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.scope_id is not None:
            return "bound to a network interface"
        if ip not in _PUBLIC_IPV6:
            return "not public"
        if (int(ip) >> 32) & 0xFFFF_FFFF & ~_ISATAP_FLAGS == _ISATAP:
            return "IPv4 in IPv6 (ISATAP)"
    # A second opinion, which learns of new special addresses with Python.
    return None if ip.is_global and not ip.is_multicast and not ip.is_reserved else "not public"


def url_denial(text: str) -> str | None:
    """Returns why nothing may be sent to a URL whose host is not trusted, before its name is looked up.

    Any port will do: nothing is sent before the server has proved with a certificate that it is the host.
    """
    try:
        url = URL(text)
    except ValueError:
        return "its address is no URL"
    if not _PRINTED.fullmatch(text):
        return "its address has characters that URLs do not have"
    if url.scheme != "https":
        return "its address is not https"
    if "@" in text.partition("://")[2].partition("/")[0] or url.user is not None or url.password is not None:
        return "its address holds credentials"
    if "#" in text:
        return "its address has a fragment"
    return _host_denial(url.raw_host or "")


def _host_denial(host: str) -> str | None:
    if ":" in host:
        return denial(host)
    name = host.removesuffix(".")
    labels = name.split(".")
    if len(name) > 253 or not all(0 < len(label) <= 63 for label in labels):
        return "its address has no host name"
    if not _VISIBLE_ASCII.fullmatch(name) or "%" in name:
        return "its address has an encoded host name"
    if _NUMBER.fullmatch(labels[-1]):
        return denial(name)  # 127.1, 0x7f.1 and 2130706433 are addresses to some and none to others
    return None if len(labels) > 1 else "its host is local: the name has no dot"
