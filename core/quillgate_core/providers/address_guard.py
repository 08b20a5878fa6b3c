"""Which addresses a provider may have that nobody but its base URL vouches for: public ones only. Pure."""

import ipaddress


def denial(address: str) -> str | None:
    """Returns why an address must not be connected to, None for a public one."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return "no IP address"
    return None if ip.is_global and not ip.is_multicast else "not public"
