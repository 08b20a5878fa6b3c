"""An operator's receiver of events: a real HTTP server that verifies signatures by itself and answers as scripted."""

import asyncio
import base64
import hashlib
import hmac
import json
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from aiohttp import web

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
OTHER_SECRET = "whsec_" + base64.b64encode(bytes(range(32, 64))).decode()


@dataclass(frozen=True)
class Heard:
    """One request that arrived."""

    headers: dict[str, str]
    body: bytes

    @property
    def message_id(self) -> str:
        """What receivers tell repeats by."""
        return self.headers["webhook-id"]

    @property
    def event(self) -> dict[str, Any]:
        """The body."""
        event: dict[str, Any] = json.loads(self.body)
        return event

    def is_signed_with(self, secret: str) -> bool:
        """Verifies as the specification says, without any code of ours."""
        key = base64.b64decode(secret.removeprefix("whsec_"))
        content = b".".join([self.message_id.encode(), self.headers["webhook-timestamp"].encode(), self.body])
        wanted = "v1," + base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
        return any(hmac.compare_digest(wanted, given) for given in self.headers["webhook-signature"].split(" "))


@dataclass
class WebhookReceiver:
    """Answers with the scripted statuses one after the other, then with `status`; 0 is no answer at all."""

    script: list[int] = field(default_factory=list)
    status: int = 204
    answer_headers: dict[str, str] = field(default_factory=dict)
    heard: list[Heard] = field(default_factory=list)
    url: str = ""

    def __post_init__(self) -> None:
        self._arrived = asyncio.Condition()
        self._released = asyncio.Event()
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app)

    async def __aenter__(self) -> "WebhookReceiver":
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        port = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{port}/hooks?token=receivers-own-token"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._released.set()
        await self._runner.cleanup()

    async def wait_for(self, count: int, *, timeout_s: float = 10.0) -> list[Heard]:
        """Waits until so many requests have arrived, and returns them."""
        async with asyncio.timeout(timeout_s), self._arrived:
            await self._arrived.wait_for(lambda: len(self.heard) >= count)
        return self.heard

    async def _answer(self, request: web.Request) -> web.Response:
        assert request.method == "POST"
        assert request.query["token"] == "receivers-own-token"
        heard = Heard({name.lower(): value for name, value in request.headers.items()}, await request.read())
        status = self.script.pop(0) if self.script else self.status
        async with self._arrived:
            self.heard.append(heard)
            self._arrived.notify_all()
        if not status:
            await self._released.wait()
        return web.Response(status=status or 500, headers=self.answer_headers)
