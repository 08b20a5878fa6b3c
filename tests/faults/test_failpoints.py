"""A core that is killed before or after each durable step, and what the ledger says when another one has cleaned up."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
from aiohttp import ClientError, ClientSession
from fakes.books import Books
from fakes.scripted_upstream import (
    BodyStep,
    ScriptedAnswer,
    Step,
    chat_answer,
    chat_chunk,
    chat_stream,
    json_answer,
    sse_answer,
)
from faults.doomed import DoomedCore, Doomsayer
from service import BIG_MODEL, RunningService, Tenant, start_service
from sqlalchemy import Engine

from quillgate.v1 import completion_service_pb2, completion_service_pb2_grpc
from quillgate.v1.chat_completion_pb2 import ChatCompletionRequest
from quillgate_core import failpoint
from quillgate_core.app import Core
from quillgate_core.config import Config
from quillgate_core.reservation import Reserve
from quillgate_core.storage.database import Database
from quillgate_facade.app import build_app
from quillgate_facade.app import serve as serve_facade
from quillgate_facade.config import FacadeConfig

BOUND_S = 15.0
HOLD = 5
"""Messages that are held for the request: the model's whole output."""

USAGE = (10, 0, 5)
NOTHING = "no row, and the provider was not asked"
UNASKED = "the hold is charged, though the provider was not asked"
CHARGED = "the hold is charged"
EXACT = "the usage is charged"
FREE = "released, no charge"


@dataclass(frozen=True)
class Case:
    """Where the core dies, and what must be found then."""

    name: str
    hit: int
    found: tuple[str, ...]
    kinds: tuple[str, ...] = ("stream", "unary")
    is_failing: bool = False
    is_blocked: bool = False
    """Whether the database hangs when the answer is whole."""
    push: int = 0
    """The signal that brings the core to the failpoint while its request hangs at the provider."""


CASES = (
    Case(failpoint.RESERVE, 1, (NOTHING,)),
    Case(failpoint.QUEUED, 1, (NOTHING, UNASKED)),  # the writer may be faster than death
    Case(failpoint.TAKEN, 1, (NOTHING,)),
    Case(failpoint.LOCKED, 1, (NOTHING,)),
    Case(failpoint.WRITTEN, 1, (NOTHING,)),
    Case(failpoint.COMMITTED, 1, (UNASKED,)),
    Case(failpoint.ANSWERED, 1, (UNASKED, CHARGED)),
    Case(failpoint.RESERVED, 1, (UNASKED,)),
    Case("", 0, (CHARGED,), push=signal.SIGKILL),
    Case(failpoint.FIRST_OUTPUT, 1, (CHARGED,), ("stream",)),
    Case(failpoint.MORE_OUTPUT, 1, (CHARGED,), ("stream",)),
    Case(failpoint.WHOLE, 1, (CHARGED,)),
    Case(failpoint.QUEUED, 2, (CHARGED, EXACT)),
    Case(failpoint.TAKEN, 2, (CHARGED,)),
    Case(failpoint.LOCKED, 2, (CHARGED,)),
    Case(failpoint.WRITTEN, 2, (CHARGED,)),
    Case(failpoint.COMMITTED, 2, (EXACT,)),
    Case(failpoint.ANSWERED, 2, (EXACT,)),
    Case(failpoint.SETTLED, 1, (EXACT,)),
    Case(failpoint.JOURNAL_WRITTEN, 1, (EXACT,), is_blocked=True),
    Case(failpoint.JOURNALED, 1, (EXACT,), is_blocked=True),
    Case(failpoint.RELEASE, 1, (CHARGED,), is_failing=True),
    Case(failpoint.RELEASED, 1, (FREE,), is_failing=True),
    Case(failpoint.LEASE, 2, (CHARGED,), push=signal.SIGUSR1),
    Case(failpoint.LEASE_HELD, 2, (CHARGED,), push=signal.SIGUSR1),
    Case(failpoint.RECOVERY, 1, (CHARGED,), push=signal.SIGUSR2),
    Case(failpoint.RECOVERY_WRITTEN, 1, (CHARGED,), push=signal.SIGUSR2),
    Case(failpoint.RECOVERED, 1, (CHARGED,), push=signal.SIGUSR2),
)
RUNS = [pytest.param(case, kind, id=f"{kind}-{case.name}-{case.hit}") for case in CASES for kind in case.kinds]


@pytest.fixture(scope="module")
def doomsayer() -> Iterator[Doomsayer]:
    """The program that starts cores which die."""
    made = Doomsayer()
    yield made
    made.stop()


@dataclass(frozen=True)
class Seen:
    """What the caller saw."""

    is_done: bool
    usage: tuple[int, int, int] | None = None


@dataclass(frozen=True)
class Scene:
    """A request to a doomed core, and the core beside it that goes on."""

    case: Case
    kind: str
    service: RunningService
    tenant: Tenant
    doomed: DoomedCore
    books: Books
    directory: Path
    is_blocked: asyncio.Event

    @property
    def script(self) -> ScriptedAnswer:
        """What the provider does."""
        if self.case.is_failing:
            return json_answer(500, {"error": {"message": "broken"}})
        if self.kind == "unary":
            answer = chat_answer()
            pause: BodyStep = Step.HANG if self.case.push else self.is_blocked
            return replace(answer, before=[pause] if self.case.push or self.case.is_blocked else ())
        if self.case.push:
            return sse_answer(chat_chunk({"role": "assistant", "content": "Hel"}), Step.HANG)
        return chat_stream(("Hel", "lo"), between=self.is_blocked if self.case.is_blocked else 0.05)

    async def ask(self) -> Seen:
        """Ask the doomed core through a facade, and push it to its end when the provider has the request."""
        self.service.upstream.script(self.script)
        async with AsyncExitStack() as stack:
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(self.doomed.address))
            facade = await serve_facade(build_app(channel, FacadeConfig(port=0)))
            stack.push_async_callback(facade.stop, 1.0)
            http = await stack.enter_async_context(ClientSession())
            asking = asyncio.create_task(self._ask(http, f"http://127.0.0.1:{facade.port}/api/openai/v1"))
            if self.case.push:
                await self.service.upstream.wait_for_requests()
                self.doomed.signal(self.case.push)
            if self.case.is_blocked:
                await self.service.upstream.wait_for_requests()
                await stack.enter_async_context(self._blocking())
                self.is_blocked.set()
            async with asyncio.timeout(BOUND_S):
                return await asking

    @asynccontextmanager
    async def _blocking(self) -> AsyncIterator[None]:
        """Keep every settlement waiting, as a database that hangs would."""
        async with (
            await psycopg.AsyncConnection.connect(self.service.database_url) as connection,
            connection.transaction(force_rollback=True),
        ):
            await connection.execute("SELECT FROM daily_message_count FOR UPDATE")
            yield

    async def _ask(self, http: ClientSession, url: str) -> Seen:
        body = {
            "model": BIG_MODEL,
            "messages": [{"role": "user", "content": "Hi"}],
            "stream": self.kind == "stream",
        } | ({"stream_options": {"include_usage": True}} if self.kind == "stream" else {})
        headers = {"authorization": f"Bearer {self.tenant.key}"}
        try:
            async with http.post(f"{url}/chat/completions", json=body, headers=headers) as answer:
                text = await answer.text()
        except ClientError:
            return Seen(False)
        if self.kind == "unary":
            return Seen(True, _usage(json.loads(text))) if answer.status == 200 else Seen(False)
        if not text.endswith("data: [DONE]\n\n"):
            return Seen(False)
        return Seen(True, _usage(json.loads(text.split("data: ")[-2])))

    async def clean_up(self) -> None:
        """Start a core in the dead one's place, and wait until it has inherited whatever is left."""
        await asyncio.to_thread(self.service.core.metering.recover_instance, "dead")
        async with succeeding(self.service.database_url, self.directory):
            pass

    def rows(self) -> list[Any]:
        """The ledger's rows of chats."""
        return self.books.read("SELECT * FROM ledger WHERE endpoint = 'chat.completions'")

    def found(self, rows: list[Any]) -> str:
        """What became of the request; asserts that it cost no more than it may."""
        asked = len(self.service.upstream.requests)
        assert asked <= 1
        if not rows:
            return NOTHING if not asked else "a request that nobody knows"
        (row,) = rows
        charge = (row.state, row.held_messages, row.counted_messages)
        used = (row.prompt_tokens, row.cached_tokens, row.completion_tokens)
        return {
            ("recovered", HOLD, HOLD, (0, 0, 0)): CHARGED if asked else UNASKED,
            ("settled", HOLD, 1, USAGE): EXACT,
            ("released", HOLD, 0, (0, 0, 0)): FREE,
        }.get((*charge, used), f"{charge} {used}")

    async def repeat(self, request_id: str) -> grpc.StatusCode:
        """Ask the core beside it once more, with the same request id."""
        stub: Any = completion_service_pb2_grpc.CompletionServiceStub(self.service.core.channel)
        completion = ChatCompletionRequest(model=BIG_MODEL)
        completion.messages.add(role="user").content.text = "Hi"
        request = completion_service_pb2.CreateChatCompletionRequest(completion=completion)
        metadata = (*self.service.metadata(self.tenant.key), ("x-request-id", request_id))
        with pytest.raises(grpc.RpcError) as caught:
            await stub.CreateChatCompletion(request, metadata=metadata)
        code: grpc.StatusCode = caught.value.code()  # type: ignore[attr-defined]
        return code


@asynccontextmanager
async def succeeding(database_url: str, directory: Path) -> AsyncIterator[None]:
    """Run a core where the doomed one was, from when it has inherited its journal."""
    catalogue, data_dir = directory / "catalogue.toml", directory / "doomed"
    config = Config.from_environ({"QUILLGATE_CONFIG": str(catalogue), "QUILLGATE_GRPC_ADDRESS": "127.0.0.1:0"})
    with Database(database_url, data_dir=data_dir, pepper_file=directory / "pepper") as database:
        core = Core(config, database)
        await core.start()
        try:
            async with asyncio.timeout(BOUND_S):
                while len(list((data_dir / "journal").iterdir())) > 1:
                    await asyncio.sleep(0.01)
            yield
        finally:
            await core.stop(1.0)


def _usage(answer: dict[str, Any]) -> tuple[int, int, int]:
    usage = answer["usage"]
    return (
        usage["prompt_tokens"],
        usage.get("prompt_tokens_details", {}).get("cached_tokens", 0),
        usage["completion_tokens"],
    )


@pytest.mark.parametrize(("case", "kind"), RUNS)
async def test_killed_at(
    case: Case, kind: str, database_url: str, engine: Engine, tmp_path: Path, doomsayer: Doomsayer
) -> None:
    """The ledger agrees with the provider and the caller: the hold, the exact usage or nothing, once, and none held."""
    async with start_service(database_url, tmp_path) as service:
        doomed = doomsayer.start(case.name, case.hit, database_url=database_url, directory=tmp_path)
        tenant = await service.tenant(allowance=100)
        scene = Scene(case, kind, service, tenant, doomed, Books(engine), tmp_path, asyncio.Event())
        await service.core.metering.reserve(
            Reserve(workspace_id=tenant.workspace_id, request_id="another's", owner="dead", hold_messages=2)
        )
        seen = await scene.ask()
        assert await doomed.died_at() == case.name
        await scene.clean_up()

        rows = scene.rows()
        found = scene.found(rows)
        assert found in case.found
        assert not seen.is_done or (found, seen.usage) == (EXACT, USAGE)
        scene.books.check()
        day = scene.books.day(workspace_id=tenant.workspace_id)
        assert (day.held_messages, day.message_count) == (0, 2 + sum(row.counted_messages for row in rows))

        for row in rows:
            assert await scene.repeat(row.request_id) is grpc.StatusCode.ALREADY_EXISTS
        await scene.clean_up()
        assert scene.rows() == rows
        assert scene.found(rows) == found


@pytest.mark.parametrize("name", [failpoint.LEASE, failpoint.LEASE_HELD])
async def test_killed_at_the_start(name: str, database_url: str, tmp_path: Path, doomsayer: Doomsayer) -> None:
    """A core that dies while it takes its lease for the first time leaves nothing that would stop another one."""
    (tmp_path / "catalogue.toml").write_text("")
    doomed = doomsayer.start(name, 1, database_url=database_url, directory=tmp_path)
    assert await doomed.died_at() == name
    async with succeeding(database_url, tmp_path), start_service(database_url, tmp_path) as service:
        assert await service.tenant()


def test_every_failpoint_is_reached() -> None:
    """Each name is where a core of these tests dies, for streams and for whole answers as far as both come by."""
    assert {case.name for case in CASES} - {""} == set(failpoint.NAMES)
    only_streams = {case.name for case in CASES if case.kinds == ("stream",)}
    assert only_streams == {failpoint.FIRST_OUTPUT, failpoint.MORE_OUTPUT}
