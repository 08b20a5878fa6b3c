"""`quillgate serve`: runs the service, all in one process or core and facade apart.

The only module of the CLI that sees the core and the facade; everything else speaks gRPC.
"""

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta

import click
import grpc
import uvloop

from quillgate_core.app import Core
from quillgate_core.config import Config, ConfigError
from quillgate_core.errors import QuillgateError
from quillgate_core.principal import SCOPES
from quillgate_core.storage.database import Database
from quillgate_core.storage.startup import StartupError
from quillgate_facade.app import FacadeServer, build_app
from quillgate_facade.app import serve as serve_facade
from quillgate_facade.config import FacadeConfig, FacadeConfigError

INTERRUPT_DRAIN_S = 2.0
NEW_KEY_LIFETIME = timedelta(days=30)
EXAMPLE = '{"model": "quillgate/echo", "messages": [{"role": "user", "content": "Hello, Quillgate!"}]}'

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

_new_key_option = click.option(
    "--new-key", is_flag=True, help="Also make and print a developer key that works for 30 days."
)
_new_admin_key_option = click.option(
    "--new-admin-key", is_flag=True, help="Also make and print a key with all scopes, if you lost the first start's."
)


@dataclass(frozen=True, slots=True)
class NewKeys:
    """Which keys to make and print at this start."""

    developer: bool
    admin: bool


class Stop:
    """Waits for SIGINT or SIGTERM.

    `unready_s` is how long new requests are then still taken, `drain_s` how long those that run may take after that. A
    person who presses Ctrl-C waits for neither, and a start that fails not for the first.
    """

    def __init__(self, unready_s: float, drain_s: float) -> None:
        self._given_unready_s = unready_s
        self.unready_s = 0.0
        self.drain_s = drain_s
        self._event = asyncio.Event()

    def listen(self) -> None:
        """Takes the two signals; a second one ends the process at once."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop, self._given_unready_s, self.drain_s)
        loop.add_signal_handler(signal.SIGINT, self._stop, 0.0, min(self.drain_s, INTERRUPT_DRAIN_S))

    def _stop(self, unready_s: float, drain_s: float) -> None:
        if self._event.is_set():
            os._exit(130)
        self.unready_s, self.drain_s = unready_s, drain_s
        self._event.set()

    async def wait(self) -> None:
        """Returns when the service shall stop."""
        await self._event.wait()


@click.group("serve", invoke_without_command=True)
@_new_key_option
@_new_admin_key_option
@click.pass_context
def app(context: click.Context, *, new_key: bool, new_admin_key: bool) -> None:
    """Run facade and core together; `serve core` and `serve facade` run them apart."""
    if context.invoked_subcommand is None:
        _run_core(_all_in_one, NewKeys(developer=new_key, admin=new_admin_key))


@app.command("core")
@_new_key_option
@_new_admin_key_option
def core_alone(*, new_key: bool, new_admin_key: bool) -> None:
    """Run core alone: gRPC on QUILLGATE_GRPC_ADDRESS."""
    _run_core(_core_alone, NewKeys(developer=new_key, admin=new_admin_key))


@app.command("facade")
@click.option(
    "--core",
    "addresses",
    multiple=True,
    envvar="QUILLGATE_CORE_ADDRESS",
    show_envvar=True,
    help="Address of core: host:port or unix:/path; repeatable.",
)
def facade_alone(*, addresses: tuple[str, ...]) -> None:
    """Run the facade alone: REST on QUILLGATE_FACADE_HOST and QUILLGATE_FACADE_PORT."""
    targets = addresses or ("127.0.0.1:8788",)
    target = targets[0] if len(targets) == 1 else f"ipv4:{','.join(targets)}"
    _guarded(lambda: uvloop.run(_facade_alone(_facade_config(), target)))


def _run_core(serve: Callable[[Config, Database, NewKeys], Awaitable[None]], new_keys: NewKeys) -> None:
    def run() -> None:
        config = Config.from_environ(os.environ)
        with Database(
            config.database_url.reveal(),
            data_dir=config.data_dir,
            pepper_file=config.pepper_file,
            master_key_file=config.master_key_file,
            master_key=config.master_key,
        ) as database:
            uvloop.run(_awaited(serve(config, database, new_keys)))

    _guarded(run)


async def _awaited(work: Awaitable[None]) -> None:
    await work


async def _all_in_one(config: Config, database: Database, new_keys: NewKeys) -> None:
    facade_config = _facade_config()
    stop = Stop(config.unready_s, config.drain_s)
    stop.listen()
    core = Core(config, database)
    try:
        await core.start()
        server = await _listen(core.channel, facade_config)
        try:
            url = f"http://{facade_config.host}:{server.port}/api/openai/v1"
            await _announce(core, url, new_keys)
            _freeze()
            await stop.wait()
            await core.drain()
        finally:
            await server.stop(stop.drain_s, unready_s=stop.unready_s)
    finally:
        await core.stop(stop.drain_s)


def _freeze() -> None:
    """Leaves what the start has made, which stays, out of every later search for garbage: a tenth of all CPU."""
    gc.collect()
    gc.freeze()


async def _core_alone(config: Config, database: Database, new_keys: NewKeys) -> None:
    stop = Stop(config.unready_s, config.drain_s)
    stop.listen()
    core = Core(config, database)
    try:
        await core.start()
        await _announce(core, "", new_keys)
        _freeze()
        await stop.wait()
        await core.drain()
        await asyncio.sleep(stop.unready_s)
    finally:
        await core.stop(stop.drain_s)


async def _facade_alone(config: FacadeConfig, target: str) -> None:
    stop = Stop(config.unready_s, config.drain_timeout_s)
    stop.listen()
    async with grpc.aio.insecure_channel(target, options=_CHANNEL_OPTIONS) as channel:
        server = await _listen(channel, config)
        _say(f"Base URL   http://{config.host}:{server.port}/api/openai/v1", f"core       {target}")
        await stop.wait()
        await server.stop(stop.drain_s, unready_s=stop.unready_s)


async def _listen(channel: grpc.aio.Channel, config: FacadeConfig) -> FacadeServer:
    """Serves REST on the channel; raises OSError that says where it could not."""
    try:
        return await serve_facade(build_app(channel, config))
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise OSError(f"cannot serve REST on {config.host}:{config.port}: {reason}") from None


async def _announce(core: Core, url: str, new_keys: NewKeys) -> None:
    """Prints where the service is, and the secrets that are shown only now."""
    lines = [f"Base URL   {url}"] if url else []
    lines.append(f"gRPC       {core.address}")
    admin = await asyncio.get_running_loop().run_in_executor(None, core.keys.bootstrap)
    if admin is not None:
        lines.append(f"Admin key  {admin}   (shown once: keep it; the CLI reads it from QUILLGATE_KEY)")
    elif new_keys.admin:
        admin = await core.issue_key("serve --new-admin-key", scopes=SCOPES)
        lines.append(f"Admin key  {admin}   (another one, shown once; revoke the lost one with the CLI)")
    if new_keys.developer:
        secret = await core.issue_key("serve --new-key", lifetime=NEW_KEY_LIFETIME)
        lines.append(f"Your key   {secret}   (for {NEW_KEY_LIFETIME.days} days)")
        if url:
            lines += ["", "Try it:", f"  curl {url}/chat/completions \\"]
            lines += [
                f'    -H "Authorization: Bearer {secret}" -H "Content-Type: application/json" \\',
                f"    -d '{EXAMPLE}'",
            ]
    _say(*lines)


def _say(*lines: str) -> None:
    print("", *lines, "", sep="\n", flush=True)


def _facade_config() -> FacadeConfig:
    return FacadeConfig.from_environ(os.environ)


def _guarded(run: Callable[[], None]) -> None:
    """Runs with a log on stderr; what the operator can mend is told in a line each, without a trace."""
    logging.basicConfig(
        level=os.environ.get("QUILLGATE_LOG_LEVEL", "WARNING").upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    try:
        run()
    except (ConfigError, FacadeConfigError, StartupError, QuillgateError, OSError) as error:
        for line in str(error).splitlines():
            print(f"quillgate: {line}", file=sys.stderr)
        raise click.exceptions.Exit(1) from None
