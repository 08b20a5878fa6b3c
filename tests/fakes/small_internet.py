"""A small internet on loopback for tests of the guard: names that resolve as scripted, traps and certificates."""

import contextlib
import errno
import socket
import ssl
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from aiohttp.abc import AbstractResolver, ResolveResult

PROVIDER: str = "provider.example"
"""A name that the https server's certificate is good for."""

PROVIDER_IDN: str = "xn--bcher-kva.example"
"""Another one, as certificates write `bücher.example`."""


class FakeResolver(AbstractResolver):
    """Answers each look-up of a host with the next of its lists of addresses, the last one again and again."""

    def __init__(self, answers: Mapping[str, Sequence[Sequence[str]]]) -> None:
        self._answers = {host: list(lists) for host, lists in answers.items()}
        self.looked_up: list[str] = []

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Answer as scripted; a host that is not is unknown."""
        self.looked_up.append(host)
        lists = self._answers.get(host)
        if lists is None:
            raise OSError(errno.ENOENT, "unknown host")
        addresses = lists.pop(0) if len(lists) > 1 else lists[0]
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=socket.IPPROTO_TCP,
                flags=0,
            )
            for address in addresses
        ]

    async def close(self) -> None:
        """Nothing to close."""


class Trap:
    """Sockets that listen on one port of all of IPv4's and IPv6's loopback, and count who connects."""

    def __init__(self, sockets: Sequence[socket.socket]) -> None:
        self._sockets = sockets
        self.port: int = sockets[0].getsockname()[1]

    def count(self) -> int:
        """How many connections have come since the last time; the kernel takes them in without our help."""
        return sum(_accept_all(listener) for listener in self._sockets)


@contextlib.contextmanager
def open_trap() -> Iterator[Trap]:
    """Listen on every address that leads to this machine: a name or a number for any of them ends here."""
    with contextlib.ExitStack() as stack:
        ipv6 = stack.enter_context(socket.socket(socket.AF_INET6))
        ipv6.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        ipv6.bind(("::", 0))
        ipv6.listen(64)
        ipv6.setblocking(False)
        yield Trap([ipv6])


def _accept_all(listener: socket.socket) -> int:
    count = 0
    while True:
        try:
            connection, _ = listener.accept()
        except BlockingIOError:
            return count
        connection.close()
        count += 1


def make_certificates(directory: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Make a certificate, and return the context of its server and that of a client that believes it alone."""
    key, certificate = directory / "key.pem", directory / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-days", "1", "-subj", "/CN=a provider", "-addext", f"subjectAltName=DNS:{PROVIDER},DNS:{PROVIDER_IDN}"]
    subprocess.run([*command, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(certificate, key)
    return server, ssl.create_default_context(cafile=str(certificate))
