"""A whole service for tests: real core, real facade, real PostgreSQL, and a scripted provider behind it.

`together` reaches core over the in-process channel, as `quillgate serve` does; `apart` over TCP, as `serve facade`.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import grpc
import psycopg
from fakes.scripted_upstream import Fallback, ScriptedUpstream
from fakes.text_answers import text_or_chat

from quillgate.v1 import key_service_pb2, key_service_pb2_grpc, workspace_service_pb2, workspace_service_pb2_grpc
from quillgate_core.app import Core
from quillgate_core.config import Config
from quillgate_core.storage.database import Database
from quillgate_facade.app import build_app
from quillgate_facade.app import serve as serve_facade
from quillgate_facade.config import FacadeConfig

Shape = Literal["together", "apart"]

MODEL = "scripted/model"
"""The model that the scripted provider serves, whose answers hold one message of the allowance at most."""

BIG_MODEL = "scripted/big"
"""The same with an output limit of several messages."""

NATIVE_MODEL = "scripted/native"
"""Served by a provider that speaks text completions itself."""

SPEECH_MODEL = "scripted/speech"
"""One that turns speech into text."""

ANTHROPIC_MODEL = "scripted/claude"
"""Served by a provider that speaks Anthropic's protocol."""

_CATALOGUE = """
[providers.scripted]
base_url = "{base_url}"

[providers.scripted-native]
base_url = "{base_url}"
native_endpoints = ["chat.completions", "completions"]

[providers.scripted-anthropic]
base_url = "{base_url}"
protocol = "anthropic"

[[models]]
id = "scripted/claude"
context_window = 200000
max_output_tokens = 64000
upstreams = [{{ provider = "scripted-anthropic", model = "claude-sonnet-4-5" }}]

[[models]]
id = "scripted/native"
context_window = 128000
max_output_tokens = 8192
upstreams = [
  {{ provider = "scripted", model = "upstream-model" }},
  {{ provider = "scripted-native", model = "upstream-native" }},
]

[[models]]
id = "scripted/model"
context_window = 128000
max_output_tokens = 8192
upstreams = [{{ provider = "scripted", model = "upstream-model" }}]

[[models]]
id = "scripted/big"
context_window = 1000000
max_output_tokens = 64000
upstreams = [{{ provider = "scripted", model = "upstream-big" }}]

[[models]]
id = "scripted/speech"
context_window = 16000
max_output_tokens = 2000
endpoints = ["audio.transcriptions"]
upstreams = [{{ provider = "scripted", model = "upstream-speech" }}]
"""


@dataclass(frozen=True)
class Tenant:
    """A workspace with one developer key."""

    workspace_id: str
    key_id: str
    key: str


@dataclass(frozen=True)
class RunningService:
    """What a test needs to talk to the service."""

    http_url: str
    grpc_address: str
    admin_key: str
    developer_key: str
    upstream: ScriptedUpstream
    core: Core
    database_url: str

    @property
    def base_url(self) -> str:
        """What a client is configured with."""
        return f"{self.http_url}/api/openai/v1"

    def metadata(self, key: str = "") -> tuple[tuple[str, str], ...]:
        """The gRPC metadata of a key, by default the admin's."""
        return (("authorization", f"Bearer {key or self.admin_key}"),)

    async def tenant(self, *, allowance: int | None = None, **key: Any) -> Tenant:
        """Makes a workspace and a key in it."""
        workspaces: Any = workspace_service_pb2_grpc.WorkspaceServiceStub(self.core.channel)
        keys: Any = key_service_pb2_grpc.KeyServiceStub(self.core.channel)
        made = await workspaces.CreateWorkspace(
            workspace_service_pb2.CreateWorkspaceRequest(name="tenant", daily_message_allowance=allowance),
            metadata=self.metadata(),
        )
        workspace_id = made.workspace.workspace_id
        created = await keys.CreateKey(
            key_service_pb2.CreateKeyRequest(workspace_id=workspace_id, name="developer", **key),
            metadata=self.metadata(),
        )
        return Tenant(workspace_id, created.key.key_id, created.secret)

    async def send_chat(self, key: str, *, stream: bool) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Sends a request over a bare socket, which a test may then cut at any moment."""
        host, port = self.http_url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        payload = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "stream": stream})
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {key}\r\n"
        framing = f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n"
        writer.write((head + framing + payload).encode())
        await writer.drain()
        return reader, writer

    async def rows(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Reads the database behind the service's back."""
        connection = await psycopg.AsyncConnection.connect(self.database_url)
        async with connection:
            return await (await connection.execute(statement, parameters)).fetchall()

    async def daily(self, tenant: Tenant) -> tuple[int, ...] | None:
        """The tenant's day: messages, held, input, cached, output, requests; None without a row."""
        found = await self.rows(
            "SELECT message_count, held_messages, input_tokens, cached_tokens, output_tokens, request_count"
            " FROM daily_message_count WHERE workspace_id = %s",
            tenant.workspace_id,
        )
        return found[0] if found else None

    async def settled(self, tenant: Tenant, *, timeout_s: float = 2.0) -> tuple[int, ...]:
        """The tenant's day once nothing is held any more; raises TimeoutError if something stays held."""
        async with asyncio.timeout(timeout_s):
            while (row := await self.daily(tenant)) is None or row[1]:
                await asyncio.sleep(0.01)
        return row


@asynccontextmanager
async def start_service(
    database_url: str,
    directory: Path,
    *,
    shape: Shape = "together",
    facade: FacadeConfig | None = None,
    fallback: Fallback = text_or_chat,
    catalogue_text: str = _CATALOGUE,
    admin_key: str = "",
    **settings: Any,
) -> AsyncIterator[RunningService]:
    """Starts everything on free loopback ports and stops it at the end."""
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(ScriptedUpstream(fallback=fallback))
        catalogue = directory / "catalogue.toml"
        catalogue.write_text(catalogue_text.format(base_url=upstream.base_url))
        environ = {"QUILLGATE_CONFIG": str(catalogue), "QUILLGATE_GRPC_ADDRESS": "127.0.0.1:0", **settings}
        config = Config.from_environ(environ)
        database = stack.enter_context(Database(database_url, data_dir=directory, master_key=config.master_key))
        core = Core(config, database)
        await core.start()
        stack.push_async_callback(core.stop, 1.0)
        channel: Any = core.channel
        if shape == "apart":
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(core.address))
        server = await serve_facade(build_app(channel, facade or FacadeConfig(port=0)))
        stack.push_async_callback(server.stop, 1.0)
        admin_key = core.keys.bootstrap() or admin_key
        assert admin_key, "a second service on a database is given the first one's admin key"
        made = RunningService(
            http_url=f"http://127.0.0.1:{server.port}",
            grpc_address=core.address,
            admin_key=admin_key,
            developer_key="",
            upstream=upstream,
            core=core,
            database_url=database_url,
        )
        tenant = await made.tenant()
        yield RunningService(**{**made.__dict__, "developer_key": tenant.key})
