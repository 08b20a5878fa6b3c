"""What one process of the service runs, from its start to its stop. Must not know whether it has siblings.

Each shape is made inside the event loop that it lives in. This module brings core, facade and their libraries.
"""

import asyncio
import gc
import os
import socket
from collections.abc import Callable
from typing import Protocol

import grpc
import uvloop

from quillgate_cli.serve.announcement import core_lines, say
from quillgate_cli.serve.new_keys import NewKeys
from quillgate_cli.serve.stop import Stop
from quillgate_core.app import Core
from quillgate_core.config import Config
from quillgate_core.storage.database import Database
from quillgate_facade.app import FacadeServer, build_app, serve, serve_passed
from quillgate_facade.config import FacadeConfig

_GARBAGE_OBJECTS = 20_000
_CHANNEL_OPTIONS = (
    ("grpc.lb_policy_name", "round_robin"),
    ("grpc.max_receive_message_length", 40 * 1024 * 1024),
    ("grpc.max_send_message_length", 40 * 1024 * 1024),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # By default a core that was away for minutes is looked for each two minutes only.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.service_config", '{"healthCheckConfig": {"serviceName": ""}}'),
)


class Service(Protocol):
    """One shape of the service; `start` and `stop` frame its life, and `stop` may be called whatever start did."""

    async def start(self) -> None:
        """Serves; raises what `guarded` can tell."""

    async def announcement(self, new_keys: NewKeys) -> list[str]:
        """Makes the keys that are asked for; returns the lines to print."""

    async def stop(self, stop: Stop) -> None:
        """Lets running requests finish for the time that the stop gives, and ends everything."""


class Rest:
    """The facade on a channel to core, on its own port or behind a parent that passes connections on."""

    def __init__(self, channel: grpc.aio.Channel, config: FacadeConfig, passed: socket.socket | None) -> None:
        self._channel = channel
        self._config = config
        self._passed = passed
        self._server: FacadeServer | None = None

    @property
    def url(self) -> str:
        """What clients are configured with; only after `start`."""
        assert self._server is not None
        return f"http://{self._config.host}:{self._server.port}/api/openai/v1"

    async def start(self) -> None:
        """Serves; raises OSError that says where it could not."""
        app = build_app(self._channel, self._config)
        try:
            self._server = await (serve(app) if self._passed is None else serve_passed(app, self._passed))
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise OSError(f"cannot serve REST on {self._config.host}:{self._config.port}: {reason}") from None

    async def stop(self, stop: Stop) -> None:
        """Stops as the facade does."""
        if self._server is not None:
            await self._server.stop(stop.drain_s, unready_s=stop.unready_s)


class AllInOne:
    """Facade and core, over a channel inside the process; with `passed`, one of several behind the same ports."""

    def __init__(
        self, config: Config, facade_config: FacadeConfig, database: Database, passed: socket.socket | None = None
    ) -> None:
        self._core = Core(config, database, shares_port=passed is not None)
        self._rest = Rest(self._core.channel, facade_config, passed)

    async def start(self) -> None:
        """Starts core first."""
        await self._core.start()
        await self._rest.start()

    async def announcement(self, new_keys: NewKeys) -> list[str]:
        """Tells both addresses."""
        return await core_lines(self._core, self._rest.url, new_keys)

    async def stop(self, stop: Stop) -> None:
        """Says so to whoever asks core, and stops the facade first."""
        try:
            await self._core.drain()
            await self._rest.stop(stop)
        finally:
            await self._core.stop(stop.drain_s)


class CoreAlone:
    """Core, for facades and internal teams elsewhere."""

    def __init__(self, config: Config, database: Database, *, shares_port: bool = False) -> None:
        self._core = Core(config, database, shares_port=shares_port)

    async def start(self) -> None:
        """Starts core."""
        await self._core.start()

    async def announcement(self, new_keys: NewKeys) -> list[str]:
        """Tells gRPC's address."""
        return await core_lines(self._core, "", new_keys)

    async def stop(self, stop: Stop) -> None:
        """Says so to whoever asks, and stops core."""
        try:
            await self._core.drain()
            await asyncio.sleep(stop.unready_s)
        finally:
            await self._core.stop(stop.drain_s)


class FacadeAlone:
    """The facade, for a core elsewhere, whose `target` is an address as gRPC writes it."""

    def __init__(self, config: FacadeConfig, target: str, passed: socket.socket | None = None) -> None:
        self._target = target
        self._channel = grpc.aio.insecure_channel(target, options=_CHANNEL_OPTIONS)
        self._rest = Rest(self._channel, config, passed)

    async def start(self) -> None:
        """Serves, whether core is there already or not."""
        await self._rest.start()

    async def announcement(self, new_keys: NewKeys) -> list[str]:
        """Tells the facade's address and core's; a facade makes no keys."""
        return [f"Base URL   {self._rest.url}", f"core       {self._target}"]

    async def stop(self, stop: Stop) -> None:
        """Stops the facade, then lets go of core."""
        try:
            await self._rest.stop(stop)
        finally:
            await self._channel.close()


def run_alone(make: Callable[[], Service], new_keys: NewKeys, unready_s: float, drain_s: float) -> None:
    """Runs a service that has no sibling until a signal comes."""
    uvloop.run(_alone(make, new_keys, unready_s, drain_s))


async def _alone(make: Callable[[], Service], new_keys: NewKeys, unready_s: float, drain_s: float) -> None:
    stop = Stop(unready_s, drain_s)
    stop.listen()
    service = make()
    try:
        await service.start()
        say(*await service.announcement(new_keys))
        freeze()
        await stop.wait()
    finally:
        await service.stop(stop)


def freeze() -> None:
    """Leaves what the start has made, which stays, out of every later search for garbage: a tenth of all CPU.

    Nearly all that a request makes is freed without such a search, so it may be rare: by default it comes with each
    few dozen requests that are under way, and costs another twentieth.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GARBAGE_OBJECTS, 20, 20)
