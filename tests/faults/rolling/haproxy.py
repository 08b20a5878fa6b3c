"""The load balancer that `deploy/` recommends, with the very configuration that is there, in front of two facades."""

import asyncio
import csv
import subprocess
from contextlib import suppress
from pathlib import Path

from faults.chaos.site import free_ports

CONFIG = Path(__file__).resolve().parents[3] / "deploy" / "haproxy.cfg"
LOOK_S = 0.25


class Haproxy:
    """The process, as an async context manager that has the shape of `Balancer`."""

    def __init__(self, urls: list[str], directory: Path) -> None:
        (port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        self._count = len(urls)
        self._socket = directory / "haproxy.sock"
        self._config = directory / "haproxy.cfg"
        self._config.write_text(_on_loopback(CONFIG.read_text(), port, urls, self._socket))
        self._process: subprocess.Popen[bytes] | None = None
        self.turned_away = 0
        """Nothing is known of it; who is turned away hears 503."""

    async def __aenter__(self) -> "Haproxy":
        self._process = subprocess.Popen(["haproxy", "-db", "-f", str(self._config)])
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(10)

    async def wait_ready(self) -> None:
        """Wait until every facade gets requests."""
        while True:
            with suppress(OSError):
                rows = await self.statistics()
                servers = [row for row in rows if row["svname"] not in ("FRONTEND", "BACKEND")]
                if sum(row["status"].startswith("UP") for row in servers) == self._count:
                    return
            await asyncio.sleep(LOOK_S)

    async def statistics(self) -> list[dict[str, str]]:
        """What the balancer counts, by server."""
        reader, writer = await asyncio.open_unix_connection(str(self._socket))
        writer.write(b"show stat\n")
        text = (await reader.read()).decode()
        writer.close()
        return list(csv.DictReader(text.removeprefix("# ").strip().splitlines()))


def _on_loopback(text: str, port: int, urls: list[str], socket: Path) -> str:
    """The configuration with addresses of this machine for names of containers, and a socket to ask for counts."""
    for number, url in enumerate(urls, 1):
        text = text.replace(f" facade-{number}:8080", f" {url.removeprefix('http://')}")
    text = text.replace("bind :8080", f"bind 127.0.0.1:{port}").replace(" resolvers containers init-addr libc,none", "")
    text = text.replace("log stdout format raw local0 warning", f"stats socket {socket} mode 600 level user")
    return text.partition("resolvers containers\n")[0]
