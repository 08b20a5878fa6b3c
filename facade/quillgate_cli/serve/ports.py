"""The ports that several workers share, taken once by their parent, so that a taken one is told once and at once.

The parent listens for REST itself and passes connections on: of 16 that come at once, two workers then get 8 each. The
kernel would give them 11 and 5 with a listening socket each, and up to 16 and 0 with one for both. gRPC cannot be given
connections; there the kernel decides (SO_REUSEPORT), and the parent only keeps others away from the port.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

_Address: TypeAlias = tuple[Any, ...]
"""Host, port, and for IPv6 two more."""


@contextmanager
def rest_port(host: str, port: int) -> Iterator[list[socket.socket]]:
    """Gives sockets that are bound to all addresses of the host, for the parent to listen on; port 0 is any free one.

    Raises OSError that says where it could not.
    """
    with _bound(f"cannot serve REST on {host}:{port}", host, port, shared=False) as sockets:
        yield sockets


@contextmanager
def grpc_port(address: str) -> Iterator[str]:
    """Gives an address, with its port, that only processes of this user can serve on while the block lasts.

    Raises OSError that says why it could not.
    """
    if address.startswith("unix"):
        raise OSError(f"cannot serve gRPC on {address}: workers cannot share a Unix socket; set host:port")
    host, _, port = address.rpartition(":")
    told = f"cannot serve gRPC on {address}"
    if not port.isdecimal():
        raise OSError(f"{told}: it must be host:port")
    bare = host.removeprefix("[").removesuffix("]")
    # Other services of this user that share their port would not be noticed otherwise.
    with _bound(told, bare, int(port), shared=False) as sockets:
        found = sockets[0].getsockname()[1]
    with _bound(told, bare, found, shared=True):
        yield f"{host}:{found}"


@contextmanager
def _bound(told: str, host: str, port: int, *, shared: bool) -> Iterator[list[socket.socket]]:
    sockets: list[socket.socket] = []
    try:
        try:
            for family, address in _addresses(host, port):
                sockets.append(_bind(family, (address[0], port, *address[2:]), shared=shared))
                port = port or sockets[0].getsockname()[1]
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
            raise OSError(f"{told}: {reason}") from None
        yield sockets
    finally:
        for bound in sockets:
            bound.close()


def _addresses(host: str, port: int) -> list[tuple[socket.AddressFamily, _Address]]:
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys((item[0], item[4]) for item in found))


def _bind(family: socket.AddressFamily, address: _Address, *, shared: bool) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind(address)
    except BaseException:
        bound.close()
        raise
    return bound
