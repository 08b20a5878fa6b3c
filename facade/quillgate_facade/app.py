"""Builds the facade and serves it: REST and server-sent events on one side, a gRPC channel to the core on the other.

    app = build_app(channel, FacadeConfig())
    server = await serve(app)
    ...
    await server.stop()

The channel is the caller's: it outlives the server and is closed by whoever made it.
"""

import asyncio
import socket
from collections.abc import Mapping
from typing import Protocol

import grpc.aio
from aiohttp import web

from quillgate_facade.accepting import Acceptor, Beginnings
from quillgate_facade.answers import Handler, answering
from quillgate_facade.chat import ChatHandler
from quillgate_facade.config import FacadeConfig
from quillgate_facade.connection import ConnectionFactory
from quillgate_facade.core_client import CoreClient
from quillgate_facade.cors import Cors
from quillgate_facade.door import Door
from quillgate_facade.drain import Drain
from quillgate_facade.health import HealthHandler
from quillgate_facade.models import ModelsHandler
from quillgate_facade.passed_connections import PassedConnections
from quillgate_facade.responses import ResponsesHandler
from quillgate_facade.routes import add_routes, api_endpoints, at_once, probe_endpoints
from quillgate_facade.shed import Refusals
from quillgate_facade.text_completions import TextHandler
from quillgate_facade.transcriptions import TranscriptionsHandler
from quillgate_facade.usage import UsageHandler

CONFIG = web.AppKey("config", FacadeConfig)
REFUSALS = web.AppKey("refusals", Refusals)
DRAIN = web.AppKey("drain", Drain)
AT_ONCE: web.AppKey[Mapping[tuple[str, str], Handler]] = web.AppKey("at_once", dict)

#: What handlers get to write their last frame after their calls were ended, in seconds.
_LAST_WORDS_S = 2.0


def build_app(channel: grpc.aio.Channel, config: FacadeConfig) -> web.Application:
    """Returns the application on a channel to the core, or on anything of the same shape."""
    drain = Drain()
    refusals = Refusals()
    core = CoreClient(channel)
    around = answering(config, drain, refusals)
    app = web.Application(middlewares=[around])
    app[CONFIG] = config
    app[REFUSALS] = refusals
    app[DRAIN] = drain
    api = api_endpoints(
        ChatHandler(core, config, drain),
        ModelsHandler(core, config, drain),
        text=TextHandler(core, config, drain),
        responses=ResponsesHandler(core, config, drain),
        transcriptions=TranscriptionsHandler(core, config, drain),
        usage=UsageHandler(core, config, drain),
    )
    add_routes(app, api, probe_endpoints(HealthHandler(core, config, drain)))
    app[AT_ONCE] = {}
    if config.cors_origins:
        app.on_response_prepare.append(Cors(config.cors_origins).add_headers)
    else:
        app[AT_ONCE] = at_once(api, around)  # past aiohttp's router, and with it past what the signal adds
    return app


class Listener(Protocol):
    """What connections come from."""

    def close(self) -> None:
        """Takes no further one."""


class FacadeServer:
    """A facade that serves clients on `port`; made by `serve` or `serve_passed`."""

    def __init__(
        self,
        runner: web.AppRunner,
        listener: Listener,
        connections: ConnectionFactory,
        drain: Drain,
        *,
        port: int,
    ) -> None:
        self.port = port
        self._runner = runner
        self._listener = listener
        self._connections = connections
        self._drain = drain

    async def stop(self, drain_timeout_s: float | None = None, *, unready_s: float = 0.0) -> None:
        """Accepts nothing new, lets requests run on for a time, tells the rest, and closes everything.

        The time is `drain_timeout_s`, by default the configured one; the last words of the rest take up to 2 s more.
        /readyz says 503 from the first moment, and everything is still accepted for `unready_s`: a connection that is
        made before its balancer has noticed would be refused otherwise. Connections that are kept alive are served
        until the end and closed after their next answer.
        """
        self._drain.begin()
        if unready_s:
            await asyncio.sleep(unready_s)
        self._listener.close()
        await self._connections.door.empty()
        timeout_s = self._connections.config.drain_timeout_s if drain_timeout_s is None else drain_timeout_s
        if not await self._drain.wait_quiet(timeout_s, is_connected=lambda: self._connections.open_connections > 0):
            self._drain.cancel_calls()
            await self._drain.wait(_LAST_WORDS_S)
        await self._runner.cleanup()


async def serve(app: web.Application, *, sock: socket.socket | None = None, door: Door | None = None) -> FacadeServer:
    """Starts to listen on `sock`, or else on the host and port of the app's config; raises OSError when it cannot."""
    config = app[CONFIG]
    runner, factory = await _connections_of(app, door)
    try:
        sockets = [sock] if sock is not None else await _bound(config)
        port = int(sockets[0].getsockname()[1])
        listener = Acceptor(sockets, Beginnings(factory).begin)
        listener.open()
    except OSError:
        await runner.cleanup()
        raise
    return FacadeServer(runner, listener, factory, app[DRAIN], port=port)


async def serve_passed(app: web.Application, source: socket.socket) -> FacadeServer:
    """Starts to serve connections that another process accepts on the config's port and passes on through `source`."""
    runner, factory = await _connections_of(app)
    listener = PassedConnections(source, factory)
    listener.open()
    return FacadeServer(runner, listener, factory, app[DRAIN], port=app[CONFIG].port)


async def _connections_of(app: web.Application, door: Door | None = None) -> tuple[web.AppRunner, ConnectionFactory]:
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=_LAST_WORDS_S)
    await runner.setup()
    assert runner.server is not None
    door = door or Door(asyncio.get_running_loop())
    return runner, ConnectionFactory(runner.server, app[CONFIG], door, app[REFUSALS], app[AT_ONCE])


async def _bound(config: FacadeConfig) -> list[socket.socket]:
    """Returns sockets that are bound to each address of the configured host."""
    server = await asyncio.get_running_loop().create_server(
        asyncio.Protocol, config.host, config.port, start_serving=False
    )
    sockets = [each.dup() for each in server.sockets]
    server.close()
    return sockets
