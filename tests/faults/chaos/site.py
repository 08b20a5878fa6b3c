"""What is put to the test: a PostgreSQL, cores and facades, each a real process on a port of its own, and tenants."""

import asyncio
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import grpc
import psutil
from aiohttp import ClientError, ClientSession
from serve_process import environment

from quillgate.v1 import key_service_pb2, key_service_pb2_grpc, workspace_service_pb2, workspace_service_pb2_grpc
from quillgate_core.storage.embedded import EmbeddedPostgres
from quillgate_core.storage.startup import StartupError

READY_S = 60.0
PORTS = range(20_000, 32_000)
AGAIN_S = 0.5
ADMIN_CALL_S = 5.0
MODELS = ("chaos/one", "chaos/two")
CATALOGUE = """
[providers.first]
base_url = "{base_url}"

[providers.second]
base_url = "{base_url}"

[[models]]
id = "chaos/one"
context_window = 128000
max_output_tokens = 64000
upstreams = [{{ provider = "first", model = "one" }}]

[[models]]
id = "chaos/two"
context_window = 128000
max_output_tokens = 64000
upstreams = [{{ provider = "first", model = "two" }}, {{ provider = "second", model = "two" }}]
"""


@dataclass(frozen=True)
class Tenancy:
    """A key of a workspace, with its secret."""

    workspace_id: str
    key_id: str
    secret: str


class Served:
    """`quillgate serve core` or `serve facade`, started again as often as it dies; it prints to `output`."""

    def __init__(self, kind: str, arguments: list[str], data_dir: Path, settings: dict[str, str]) -> None:
        self.output = data_dir.with_suffix(".log")
        self._command = [sys.executable, "-m", "quillgate_cli", "serve", kind, *arguments]
        self._environ = environment(data_dir, **settings)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it, unless it runs."""
        if not self.is_alive:
            with self.output.open("ab") as output:
                self._process = subprocess.Popen(
                    self._command, env=self._environ, stdout=output, stderr=output, start_new_session=True
                )

    def stop(self, timeout_s: float) -> int:
        """Send SIGTERM and return the exit code; raises TimeoutExpired if it still runs after so long. Blocking."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(timeout_s)

    def kill(self) -> None:
        """Kill it at once, without a chance to say anything."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


class Postgres:
    """The embedded PostgreSQL in a directory, which can be cut off and started again."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o711)  # root's PostgreSQL runs as another account, which must pass through
        self._directory = directory
        self._server = EmbeddedPostgres(directory)
        self.url = self._server.start()

    def restart_at_once(self) -> None:
        """Restart as `pg_ctl restart -m immediate` does: every connection is cut, and the log is replayed. Blocking."""
        pid = self._server.server_pid
        assert pid is not None
        server = psutil.Process(pid)
        server.send_signal(signal.SIGQUIT)
        server.wait(READY_S)
        following = EmbeddedPostgres(self._directory)
        for is_last in (False, False, True):
            try:
                following.start()
                break
            except StartupError as error:
                print(f"the database does not start: {error}", flush=True)
                if is_last:
                    raise
            time.sleep(AGAIN_S)
        self._server.stop()
        self._server = following

    def start(self) -> None:
        """Start it after `stop`. Blocking."""
        self._server = EmbeddedPostgres(self._directory)
        self._server.start()

    def stop(self) -> None:
        """End it."""
        self._server.stop()


@dataclass
class Site:
    """All processes, and what it takes to talk to them."""

    postgres: Postgres
    processes: list[Served]
    core_addresses: list[str]
    facade_urls: list[str]
    admin_secret: str = ""

    @property
    def cores(self) -> list[Served]:
        """The cores alone."""
        return self.processes[: len(self.core_addresses)]

    @property
    def base_urls(self) -> list[str]:
        """What callers are configured with."""
        return [f"{url}/api/openai/v1" for url in self.facade_urls]

    async def wait_ready(self) -> None:
        """Wait until every facade can serve; raises TimeoutError after a minute."""
        async with asyncio.timeout(READY_S), ClientSession() as http:
            for url in self.facade_urls:
                while True:
                    with suppress(ClientError, OSError):
                        async with http.get(f"{url}/readyz") as answer:
                            if answer.status == 200:
                                break
                    await asyncio.sleep(0.05)

    async def tenancies(self, *, allowance: int | None, keys: int, key_limit: int) -> list[Tenancy]:
        """Make a workspace with so many keys, the last of them limited, however often a core dies meanwhile."""
        async with self._channel() as channel:
            workspaces: Any = workspace_service_pb2_grpc.WorkspaceServiceStub(channel)
            stub: Any = key_service_pb2_grpc.KeyServiceStub(channel)
            wanted = workspace_service_pb2.CreateWorkspaceRequest(name="chaos", daily_message_allowance=allowance)
            made = await self._repeat(workspaces.CreateWorkspace, wanted)
            workspace_id = made.workspace.workspace_id
            wishes = [key_service_pb2.CreateKeyRequest(workspace_id=workspace_id, name="caller") for _ in range(keys)]
            wishes[-1].limits.daily_messages = key_limit
            created = [await self._repeat(stub.CreateKey, wish) for wish in wishes]
            return [Tenancy(workspace_id, key.key.key_id, key.secret) for key in created]

    @asynccontextmanager
    async def _channel(self) -> AsyncIterator[grpc.aio.Channel]:
        target = f"ipv4:{','.join(self.core_addresses)}"
        options = (("grpc.lb_policy_name", "round_robin"),)
        async with grpc.aio.insecure_channel(target, options=options) as channel:
            yield channel

    async def _repeat(self, call: Any, request: Any) -> Any:
        metadata = (("authorization", f"Bearer {self.admin_secret}"),)
        async with asyncio.timeout(READY_S):
            while True:
                try:
                    return await call(request, metadata=metadata, timeout=ADMIN_CALL_S)
                except grpc.aio.AioRpcError as error:
                    if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                        raise
                await asyncio.sleep(0.2)


@contextmanager
def opened(
    directory: Path, provider_url: str, *, cores: int, facades: int, settings: Mapping[str, str] = MappingProxyType({})
) -> Iterator[Site]:
    """Start the database and make the processes, which are started by whoever watches over them, one core excepted.

    `settings` are further variables of all of them.
    """
    catalogue = directory / "catalogue.toml"
    catalogue.write_text(CATALOGUE.format(base_url=provider_url))
    ports = free_ports(cores + facades)
    addresses = [f"127.0.0.1:{port}" for port in ports]
    postgres = Postgres(directory / "database")
    settings = {
        **settings,
        "QUILLGATE_DATABASE_URL": postgres.url,
        "QUILLGATE_CONFIG": str(catalogue),
        "QUILLGATE_DISCOVERY_S": "0",
        "QUILLGATE_PEPPER_FILE": str(directory / "pepper"),
        "QUILLGATE_MASTER_KEY_FILE": str(directory / "master-key"),
    }
    targets = [part for address in addresses[:cores] for part in ("--core", address)]
    processes = [
        Served("core", [], directory / f"core-{number}", settings | {"QUILLGATE_GRPC_ADDRESS": address})
        for number, address in enumerate(addresses[:cores])
    ] + [
        Served("facade", targets, directory / f"facade-{number}", settings | {"QUILLGATE_FACADE_PORT": str(port)})
        for number, port in enumerate(ports[cores:])
    ]
    site = Site(postgres, processes, addresses[:cores], [f"http://{address}" for address in addresses[cores:]])
    try:
        yield site
    finally:
        for process in processes:
            process.kill()
        postgres.stop()


async def admin_secret_of(core: Served) -> str:
    """Start the first core and read the secret that it shows once; raises TimeoutError after a minute."""
    core.start()
    async with asyncio.timeout(READY_S):
        while True:
            found = re.search(r"^Admin key +(\S+)", core.output.read_text(), re.MULTILINE)
            if found is not None:
                return found[1]
            assert core.is_alive, core.output.read_text()
            await asyncio.sleep(0.05)


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody has now.

    Not from those that outgoing connections are given: one would take the port of a process that is being restarted.
    """
    found: list[int] = []
    with ExitStack() as stack:
        for port in random.Random().sample(PORTS, len(PORTS)):
            probe = stack.enter_context(socket.socket())
            with suppress(OSError):
                probe.bind(("127.0.0.1", port))
                found.append(port)
            if len(found) == count:
                break
    return found
