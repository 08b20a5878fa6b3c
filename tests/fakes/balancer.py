"""A load balancer that passes bytes on, as a Kubernetes service does: it looks at `/readyz` and no further.

A connection goes to one backend for as long as it lives. A backend that is not ready gets no new ones. Nothing is ever
tried again: what a backend refuses or cuts, the client feels.
"""

import asyncio
from contextlib import suppress
from itertools import count
from typing import cast

from aiohttp import ClientError, ClientSession, ClientTimeout

PROBE_S = 0.25
PROBE_TIMEOUT_S = 2.0


class Balancer:
    """The balancer, as an async context manager, in front of `urls`; it listens on a port of loopback."""

    def __init__(self, urls: list[str], *, probe_s: float = PROBE_S) -> None:
        self._urls = urls
        self._probe_s = probe_s
        self._turn = count()
        self._tasks: list[asyncio.Task[None]] = []
        self._listener: asyncio.Server | None = None
        self.ready: set[str] = set()
        self.turned_away = 0
        """Connections for which there was no backend, or none that would take it."""
        self.url = ""

    async def __aenter__(self) -> "Balancer":
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(lambda: _Side(self), "127.0.0.1", 0, backlog=1024)
        self.url = f"http://127.0.0.1:{self._listener.sockets[0].getsockname()[1]}"
        self._tasks = [asyncio.create_task(self._probe(url)) for url in self._urls]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._listener is not None:
            self._listener.close()

    async def wait_ready(self) -> None:
        """Wait until every backend gets connections."""
        while len(self.ready) < len(self._urls):
            await asyncio.sleep(self._probe_s)

    async def connect(self, client: "_Side") -> None:
        """Give the client a backend of its own, or hang up on it."""
        ready = [url for url in self._urls if url in self.ready]
        assert client.transport is not None
        try:
            if not ready:
                raise ConnectionRefusedError
            host, port = ready[next(self._turn) % len(ready)].removeprefix("http://").split(":")
            loop = asyncio.get_running_loop()
            _, backend = await loop.create_connection(lambda: _Side(self, client), host, int(port))
        except OSError:
            self.turned_away += 1
            client.transport.abort()
            return
        if client.transport.is_closing():
            backend.transport.abort()
            return
        client.join(backend)

    async def _probe(self, url: str) -> None:
        async with ClientSession(timeout=ClientTimeout(total=PROBE_TIMEOUT_S)) as http:
            while True:
                is_ready = False
                with suppress(ClientError, OSError, TimeoutError):
                    async with http.get(f"{url}/readyz", headers={"connection": "close"}) as answer:
                        is_ready = answer.status == 200
                (self.ready.add if is_ready else self.ready.discard)(url)
                await asyncio.sleep(self._probe_s)


class _Side(asyncio.Protocol):
    """One end of a connection that is passed on; the client's waits for the other, the backend's is born with it."""

    def __init__(self, balancer: Balancer, other: "_Side | None" = None) -> None:
        self._balancer = balancer
        self._is_client = other is None
        self._other = other
        self._early = bytearray()
        self._task: asyncio.Task[None] | None = None
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is none by its classes
        if self._is_client:
            self._task = asyncio.get_running_loop().create_task(self._balancer.connect(self))

    def join(self, other: "_Side") -> None:
        """Take the other end, and pass on what came before."""
        self._other = other
        if other.transport is not None and self._early:
            other.transport.write(bytes(self._early))

    def data_received(self, data: bytes) -> None:
        if self._other is None or self._other.transport is None:
            self._early += data
        else:
            self._other.transport.write(data)

    def pause_writing(self) -> None:
        if self._other is not None and self._other.transport is not None:
            self._other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self._other is not None and self._other.transport is not None:
            self._other.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._other is not None and self._other.transport is not None:
            self._other.transport.close() if exc is None else self._other.transport.abort()
