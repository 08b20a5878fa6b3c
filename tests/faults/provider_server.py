"""A provider of chat completions on loopback, for those who only say how it answers."""

from abc import ABC, abstractmethod
from typing import Self

from aiohttp import web


class ProviderServer(ABC):
    """The server, as an async context manager, at `base_url`."""

    base_url = ""
    _runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self.answer)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, backlog=1024).start()
        self.base_url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    @abstractmethod
    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer one request; cancelled when its caller leaves."""
