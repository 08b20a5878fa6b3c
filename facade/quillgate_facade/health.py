"""`/healthz` and `/readyz`: whether the process lives, and whether it should get requests. Neither needs a key."""

import asyncio

import grpc
from aiohttp import web
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from quillgate_facade.answers import JSON_HEADERS
from quillgate_facade.config import FacadeConfig
from quillgate_facade.core_client import CoreClient
from quillgate_facade.drain import Drain

#: Between two questions to a core that says no, or to nobody: by then the channel knows which of several cores serve.
AGAIN_S = 0.1


class HealthHandler:
    """Answers probes."""

    def __init__(self, core: CoreClient, config: FacadeConfig, drain: Drain) -> None:
        self._health = core.health
        self._timeout_s = config.readiness_timeout_s
        self._drain = drain

    async def live(self, request: web.Request) -> web.Response:
        """Answers 200 while the process lives, whatever the core does: a restart of the facade would not mend it."""
        return web.Response(body=b'{"status":"ok"}', headers=JSON_HEADERS)

    async def ready(self, request: web.Request) -> web.Response:
        """Answers 200 when the core serves; 503 when it does not, or as soon as a stop has begun."""
        if not self._drain.draining and await self._core_serves():
            return web.Response(body=b'{"status":"ok"}', headers=JSON_HEADERS)
        return web.Response(status=503, body=b'{"status":"unavailable"}', headers=JSON_HEADERS)

    async def _core_serves(self) -> bool:
        """Asks twice: with several cores the first may be one that is about to stop, which is no news of the others."""
        if await self._is_serving():
            return True
        await asyncio.sleep(AGAIN_S)
        return await self._is_serving()

    async def _is_serving(self) -> bool:
        try:
            answer = await self._health.Check(HealthCheckRequest(), timeout=self._timeout_s)
        except grpc.RpcError:
            return False
        return bool(answer.status == HealthCheckResponse.SERVING)
