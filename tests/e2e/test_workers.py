"""`quillgate serve --workers 2` as real processes: shared ports, replaced workers, drained streams, exact limits."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import psutil
import psycopg
import pytest
import pytest_asyncio
from fakes.scripted_upstream import SCRIPTED_CATALOGUE, ScriptedUpstream, chat_answer, chat_stream
from openai import APIStatusError, AsyncOpenAI, AsyncStream
from openai.types.chat import ChatCompletionChunk
from serve_process import ServeProcess, environment, serving

from quillgate.v1 import metering_service_pb2, metering_service_pb2_grpc
from quillgate_core.storage.embedded import EmbeddedPostgres

MODEL = "scripted/model"
QUESTION: Any = [{"role": "user", "content": "Hello!"}]
READY = r"^Your key.*\n"


@dataclass
class Site:
    """Workers behind one port, with a scripted provider and a database that a test may read."""

    service: ServeProcess
    upstream: ScriptedUpstream
    environ: dict[str, str]

    @property
    def key(self) -> str:
        return self.service.find("Your key")

    def workers(self) -> list[psutil.Process]:
        """The workers that run now."""
        return [child for child in psutil.Process(self.service.process.pid).children() if _is_worker(child)]

    @asynccontextmanager
    async def client(self, key: str = "") -> AsyncIterator[AsyncOpenAI]:
        """A client with connections of its own; the second one's go to another worker than the first one's."""
        async with AsyncOpenAI(base_url=self.service.base_url, api_key=key or self.key, max_retries=0) as client:
            yield client

    async def ask(self, key: str = "") -> str:
        """Asks over a fresh connection."""
        async with self.client(key) as client:
            answer = await client.chat.completions.create(model=MODEL, messages=QUESTION)
        return answer.choices[0].message.content or ""

    def owners(self) -> set[str]:
        """The core instances that have served requests."""
        with psycopg.connect(self.environ["QUILLGATE_DATABASE_URL"]) as connection:
            return {owner for (owner,) in connection.execute("SELECT DISTINCT owner FROM ledger").fetchall()}

    def cli(self, *arguments: str) -> dict[str, Any]:
        """Runs a command as the admin and returns its JSON."""
        own = {"QUILLGATE_KEY": self.service.find("Admin key"), "QUILLGATE_CORE_ADDRESS": self.service.find("gRPC")}
        command = [sys.executable, "-m", "quillgate_cli", *arguments, "--json"]
        result = subprocess.run(command, env=self.environ | own, capture_output=True, text=True, timeout=30, check=True)
        found: dict[str, Any] = json.loads(result.stdout)
        return found


def _is_worker(process: psutil.Process) -> bool:
    try:
        return "quillgate_cli.serve.worker" in process.cmdline()
    except psutil.NoSuchProcess:  # gone, or about to be collected by its parent
        return False


@pytest_asyncio.fixture
async def site(database_url: str, tmp_path: Path) -> AsyncIterator[Site]:
    """Two workers with everything in each."""
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(ScriptedUpstream())
        catalogue = tmp_path / "catalogue.toml"
        catalogue.write_text(SCRIPTED_CATALOGUE.format(base_url=upstream.base_url))
        environ = environment(tmp_path, QUILLGATE_DATABASE_URL=database_url, QUILLGATE_CONFIG=str(catalogue))
        running = serving(["--workers", "2", "--new-key"], environ, ready=READY)
        service = await asyncio.to_thread(running.__enter__)
        stack.push_async_callback(asyncio.to_thread, running.__exit__, None, None, None)
        yield Site(service, upstream, environ)


async def _open_stream(client: AsyncOpenAI) -> AsyncStream[ChatCompletionChunk]:
    """Starts a stream and reads its first chunk."""
    stream = await client.chat.completions.create(model=MODEL, messages=QUESTION, stream=True)
    await anext(stream)
    return stream


async def _rest(stream: AsyncStream[ChatCompletionChunk]) -> str:
    return "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])


def _connections(worker: psutil.Process, port: int) -> int:
    return sum(item.status == "ESTABLISHED" and item.laddr.port == port for item in worker.net_connections("tcp"))


async def test_connections_are_shared_out_evenly(site: Site) -> None:
    """Of 16 kept-alive connections each worker has 8; both serve, and both are in the ledger as cores of their own."""
    port = int(site.service.base_url.split(":")[2].split("/")[0])
    async with AsyncExitStack() as stack:
        for _ in range(16):
            client = await stack.enter_async_context(site.client())
            await client.chat.completions.create(model=MODEL, messages=QUESTION)
        assert [_connections(worker, port) for worker in site.workers()] == [8, 8]
    assert len(site.owners()) == 2


async def test_grpc_is_served_by_both_workers_on_one_port(site: Site) -> None:
    """Enough connections to the one gRPC address reach both workers, and each of them answers."""
    address, metadata = site.service.find("gRPC"), (("authorization", f"Bearer {site.service.find('Admin key')}"),)
    port, served = int(address.split(":")[1]), set()
    question = metering_service_pb2.QuoteMessagesRequest(
        usage=metering_service_pb2.TokenUsage(prompt_tokens=1, completion_tokens=1)
    )
    for _ in range(64):
        async with grpc.aio.insecure_channel(address, options=(("grpc.use_local_subchannel_pool", 1),)) as channel:
            stub: Any = metering_service_pb2_grpc.MeteringServiceStub(channel)
            assert (await stub.QuoteMessages(question, metadata=metadata)).counted_messages == 1
            served |= {worker.pid for worker in site.workers() if _connections(worker, port)}
        if len(served) == 2:
            break
    assert len(served) == 2


async def test_killed_worker_is_replaced(site: Site) -> None:
    """A worker that is killed takes its own stream with it and nothing of the other's; a new one takes its place."""
    may_end = asyncio.Event()
    site.upstream.script(*[chat_stream(["one", " two"], between=may_end)] * 2)
    before = {worker.pid for worker in site.workers()}
    async with site.client() as first, site.client() as second:
        streams = [asyncio.create_task(_open_stream(client)) for client in (first, second)]
        opened = await asyncio.gather(*streams)
        victim = site.workers()[0]
        victim.kill()
        async with asyncio.timeout(20):
            while len(alive := {worker.pid for worker in site.workers()}) < 2 or victim.pid in alive:
                await asyncio.sleep(0.05)
        may_end.set()
        ends = await asyncio.gather(*[_rest(stream) for stream in opened], return_exceptions=True)
    assert sorted(isinstance(end, Exception) for end in ends) == [False, True]
    assert "one two" in ends
    assert len(before & alive) == 1
    async with asyncio.timeout(20):
        while len(site.owners()) < 3:  # the new one serves in its turn, and until then nobody is refused
            await site.ask()


@pytest.mark.parametrize("to_all", [False, True], ids=["parent", "all"])
async def test_sigterm_drains_the_streams_of_both(site: Site, to_all: bool) -> None:
    """Streams that run on either worker when SIGTERM comes are delivered to their ends, and the whole ends with 0.

    So they are when a service manager signals every process of the service.
    """
    may_end = asyncio.Event()
    site.upstream.script(*[chat_stream(["one", " two"], between=may_end)] * 2)
    workers = site.workers()
    async with site.client() as first, site.client() as second:
        opened = [await _open_stream(client) for client in (first, second)]
        for process in (site.service.process, *(workers if to_all else ())):
            process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(10):
            while await _is_accepting(site.service):
                await asyncio.sleep(0.02)
        may_end.set()
        assert [await _rest(stream) for stream in opened] == ["one two", "one two"]
    assert await asyncio.to_thread(site.service.process.wait, 20) == 0
    assert len(site.owners()) == 2
    assert not any(worker.is_running() for worker in workers)


async def _is_accepting(service: ServeProcess) -> bool:
    port = int(service.base_url.split(":")[2].split("/")[0])
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


async def test_second_signal_ends_all_at_once(site: Site) -> None:
    """A second signal does not wait for streams: all processes are gone, with exit code 130."""
    may_end = asyncio.Event()
    site.upstream.script(chat_stream(["one"], between=may_end))
    workers = site.workers()
    async with site.client() as client:
        await _open_stream(client)
        site.service.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(10):
            while await _is_accepting(site.service):
                await asyncio.sleep(0.02)
        site.service.process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(site.service.process.wait, 20) == 130
    assert not any(worker.is_running() for worker in workers)
    may_end.set()


async def test_no_worker_outlives_its_parent(site: Site) -> None:
    """When the parent is killed, its workers end by themselves."""
    workers = site.workers()
    assert len(workers) == 2
    site.service.process.kill()
    _, alive = await asyncio.to_thread(psutil.wait_procs, workers, timeout=20)
    assert alive == []


async def test_a_limit_is_exact_over_both_workers(site: Site) -> None:
    """Of 80 requests, 16 at a time on both workers, an allowance of 20 messages lets 20 through; the rest get 429."""
    site.upstream.script(*[chat_answer(prompt_tokens=10, completion_tokens=5)] * 20)
    made = await asyncio.to_thread(site.cli, "workspaces", "create", "--name", "small", "--allowance", "20")
    workspace_id = made["workspace"]["workspace_id"]
    key = await asyncio.to_thread(site.cli, "keys", "create", "--workspace", workspace_id, "--name", "key")

    async def ask_five_times() -> list[int]:
        async with site.client(key["secret"]) as client:
            return [await _status(client) for _ in range(5)]

    statuses = [status for five in await asyncio.gather(*[ask_five_times() for _ in range(16)]) for status in five]
    assert Counter(statuses) == {200: 20, 429: 60}
    with psycopg.connect(site.environ["QUILLGATE_DATABASE_URL"]) as connection:
        query = "SELECT message_count, held_messages, request_count FROM daily_message_count WHERE workspace_id = %s"
        assert connection.execute(query, (workspace_id,)).fetchall() == [(20, 0, 20)]
        counted = connection.execute(
            "SELECT count(DISTINCT owner), count(*) FROM ledger WHERE workspace_id = %s AND state = 'settled'",
            (workspace_id,),
        ).fetchall()
    assert counted == [(2, 20)]


async def _status(client: AsyncOpenAI) -> int:
    try:
        await client.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=5)
    except APIStatusError as error:
        return error.status_code
    return 200


def test_core_and_facade_apart_with_workers_each(database_url: str, tmp_path: Path) -> None:
    """`serve core --workers` and `serve facade --workers` work together as one process each does."""
    environ = environment(tmp_path, QUILLGATE_DATABASE_URL=database_url, QUILLGATE_WORKERS="2")
    with serving(["core", "--new-key"], environ, ready=READY) as core:
        target = core.find("gRPC")
        with serving(["facade", "--core", target], environ, ready=r"^core") as facade:
            assert len(psutil.Process(facade.process.pid).children()) == 2
            for _ in range(4):
                asking = _ask_echo(facade.base_url, core.find("Your key"))
                assert asyncio.run(asking) == "Hello!"
            facade.stop(timeout_s=20)
        core.stop(timeout_s=20)
        assert (core.process.returncode, facade.process.returncode) == (0, 0)


async def _ask_echo(base_url: str, key: str) -> str:
    async with AsyncOpenAI(base_url=base_url, api_key=key) as client:
        answer = await client.chat.completions.create(model="quillgate/echo", messages=QUESTION)
    return answer.choices[0].message.content or ""


def test_embedded_database_is_the_parents(tmp_path: Path) -> None:
    """Workers share the one embedded database, whose server has connections for all, and which ends with the parent."""
    environ = environment(tmp_path / "data")
    with serving(["--workers", "5", "--new-key"], environ, ready=READY) as service:
        assert asyncio.run(_ask_echo(service.base_url, service.find("Your key"))) == "Hello!"
        with EmbeddedPostgres(tmp_path / "data") as server, psycopg.connect(server.url) as connection:
            assert connection.execute("SHOW max_connections").fetchone() == ("76",)
        family = service.family()
        assert service.stop(timeout_s=20) == 0
        _, alive = psutil.wait_procs(family, timeout=5)
        assert alive == []


def _refused(arguments: list[str], environ: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    """Runs a start that shall not succeed; it returns only when no process holds its output any more."""
    command = [sys.executable, "-m", "quillgate_cli", "serve", *arguments]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)


def test_taken_ports_are_told_once(database_url: str, tmp_path: Path) -> None:
    """A start on a port that other workers serve says so in one line, ends with 1 and leaves no process behind."""
    environ = environment(tmp_path, QUILLGATE_DATABASE_URL=database_url)
    with serving(["--workers", "2", "--new-key"], environ, ready=READY) as service:
        port, address = service.base_url.split(":")[2].split("/")[0], service.find("gRPC")
        rest = _refused(["--workers", "2"], environ | {"QUILLGATE_FACADE_PORT": port})
        assert rest.stderr == f"quillgate: cannot serve REST on 127.0.0.1:{port}: Address already in use\n"
        core = _refused(["core", "--workers", "2"], environ | {"QUILLGATE_GRPC_ADDRESS": address})
        assert core.stderr == f"quillgate: cannot serve gRPC on {address}: Address already in use\n"
        assert (rest.returncode, core.returncode) == (1, 1)


def test_workers_cannot_share_a_unix_socket(tmp_path: Path) -> None:
    """A Unix socket for gRPC is refused in one line that says what to set instead."""
    address = f"unix:{tmp_path}/core.sock"
    result = _refused(["--workers", "2"], environment(tmp_path, QUILLGATE_GRPC_ADDRESS=address))
    assert result.returncode == 1
    assert result.stderr == (
        f"quillgate: cannot serve gRPC on {address}: workers cannot share a Unix socket; set host:port\n"
    )


@pytest.mark.parametrize("given", ["0", "x", "65"])
def test_a_wrong_number_of_workers_is_a_usage_error(given: str) -> None:
    """What is no number of workers ends with 2, as an option and as a variable."""
    for arguments, own in ((["--workers", given], {}), ([], {"QUILLGATE_WORKERS": given})):
        result = _refused(arguments, {**os.environ, **own})
        assert result.returncode == 2
        assert "--workers" in result.stderr
        assert "Traceback" not in result.stderr
