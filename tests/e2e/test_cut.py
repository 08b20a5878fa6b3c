"""A key or workspace that loses its right while requests run: they are cut on every replica, and settled."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from endpoint_probes import PROBES, Probe
from fakes.scripted_upstream import RecordedRequest, Step, chat_chunk, chat_stream, sse_answer, sse_event
from google.protobuf.field_mask_pb2 import FieldMask
from service import BIG_MODEL, MODEL, RunningService, Tenant, start_service

from quillgate.v1 import catalogue_service_pb2, catalogue_service_pb2_grpc, key_service_pb2, key_service_pb2_grpc
from quillgate.v1.workspace_service_pb2 import UpdateWorkspaceRequest
from quillgate.v1.workspace_service_pb2_grpc import WorkspaceServiceStub

CUT_S = 2.0
"""By when what lost its right must have ended, on every replica."""
CLOSE_S = 1.0
"""By when its provider must have noticed."""

Change = Callable[[RunningService, Tenant], Awaitable[object]]
HANGING = (chat_chunk({"role": "assistant", "content": "Hel"}), Step.HANG)


async def _update_key(service: RunningService, tenant: Tenant, path: str, **members: Any) -> None:
    keys: Any = key_service_pb2_grpc.KeyServiceStub(service.core.channel)  # type: ignore[no-untyped-call]
    request = key_service_pb2.UpdateKeyRequest(key_id=tenant.key_id, update_mask=FieldMask(paths=[path]), **members)
    await keys.UpdateKey(request, metadata=service.metadata())


async def _revoke(service: RunningService, tenant: Tenant) -> None:
    keys: Any = key_service_pb2_grpc.KeyServiceStub(service.core.channel)  # type: ignore[no-untyped-call]
    await keys.RevokeKey(key_service_pb2.RevokeKeyRequest(key_id=tenant.key_id), metadata=service.metadata())


async def _expire(service: RunningService, tenant: Tenant) -> None:
    """Lets the key end by itself, of which nobody tells the cores: its revision stays."""
    await service.rows("UPDATE keys SET expire_time = clock_timestamp() WHERE key_id = %s RETURNING 1", tenant.key_id)


async def _take_scope(service: RunningService, tenant: Tenant) -> None:
    await _update_key(service, tenant, "scopes", scopes=["usage.read"])


async def _take_model(service: RunningService, tenant: Tenant) -> None:
    await _update_key(service, tenant, "allowed_models", allowed_models=[BIG_MODEL])


async def _take_allowance(service: RunningService, tenant: Tenant) -> None:
    stub: Any = WorkspaceServiceStub(service.core.channel)  # type: ignore[no-untyped-call]
    request = UpdateWorkspaceRequest(
        workspace_id=tenant.workspace_id,
        daily_message_allowance=0,
        update_mask=FieldMask(paths=["daily_message_allowance"]),
    )
    await stub.UpdateWorkspace(request, metadata=service.metadata())


async def _disable(service: RunningService, tenant: Tenant) -> None:
    await service.rows(
        "UPDATE workspaces SET disable_time = clock_timestamp() WHERE workspace_id = %s RETURNING 1",
        tenant.workspace_id,
    )


REVOKED = (_revoke, 401, "invalid_api_key")
SPENT = (_take_allowance, 429, "insufficient_quota")
CHANGES = (
    REVOKED,
    (_expire, 401, "invalid_api_key"),
    (_take_scope, 403, "insufficient_permissions"),
    (_take_model, 403, "model_not_allowed"),
    (_disable, 403, "workspace_disabled"),
    SPENT,
)


@pytest_asyncio.fixture
async def service(database_url: str, tmp_path: Path) -> AsyncIterator[RunningService]:
    """The service through which things are changed."""
    async with start_service(database_url, tmp_path) as running:
        yield running


@pytest_asyncio.fixture(params=["together", "apart"])
async def other(
    request: pytest.FixtureRequest, service: RunningService, tmp_path: Path
) -> AsyncIterator[RunningService]:
    """A second service on the same database, in both of its shapes, through which the requests run."""
    directory = tmp_path / "other"
    directory.mkdir()
    (directory / "pepper").write_bytes((tmp_path / "pepper").read_bytes())
    admin_key = service.admin_key
    async with start_service(service.database_url, directory, shape=request.param, admin_key=admin_key) as running:
        yield running


class Caller:
    """One request of a tenant that runs by itself."""

    def __init__(self, service: RunningService, tenant: Tenant, probe: Probe = PROBES[0], *, stream: bool) -> None:
        self.text = ""
        self.status = 0
        self.task = asyncio.create_task(self._ask(service, tenant, probe, stream=stream))

    async def _ask(self, service: RunningService, tenant: Tenant, probe: Probe, *, stream: bool) -> None:
        headers = {"authorization": f"Bearer {tenant.key}"}
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.post(service.base_url + probe.path, **probe.payload(stream=stream)) as answer,
        ):
            self.status = answer.status
            async for piece in answer.content.iter_any():
                self.text += piece.decode()

    async def reads(self, text: str) -> None:
        """Waits until the text has come."""
        async with asyncio.timeout(5):
            while text not in self.text:
                await asyncio.sleep(0.01)

    async def ends(self) -> None:
        """Waits until the answer has ended, as soon as it has to."""
        async with asyncio.timeout(CUT_S):
            await self.task

    def error(self) -> dict[str, Any]:
        """The error that the answer ends with."""
        last = self.text.strip().splitlines()[-1].removeprefix("data: ")
        error: dict[str, Any] = json.loads(last)["error"]
        return error


async def _closed(asked: RecordedRequest) -> None:
    async with asyncio.timeout(CLOSE_S):
        await asked.disconnected.wait()


async def _until_known(service: RunningService, model: str) -> None:
    headers = {"authorization": f"Bearer {service.admin_key}"}
    async with asyncio.timeout(CUT_S), aiohttp.ClientSession(headers=headers) as session:
        while (await session.get(f"{service.base_url}/models/{model}")).status != 200:
            await asyncio.sleep(0.05)


async def _ended(service: RunningService, tenant: Tenant) -> list[tuple[Any, ...]]:
    """How the tenant's requests stand in the ledger."""
    return await service.rows(
        "SELECT state, outcome, counted_messages, usage_source FROM ledger WHERE workspace_id = %s",
        tenant.workspace_id,
    )


@pytest.mark.parametrize(("change", "status", "code"), CHANGES)
async def test_running_stream_is_cut_on_the_other_replica(
    service: RunningService, other: RunningService, change: Change, status: int, code: str
) -> None:
    """A change on one core ends a stream through another within two seconds, with an error frame and without [DONE].

    Its provider is left at once and what was observed is settled; the stream of another key goes on to its end.
    """
    tenant, neighbour = await service.tenant(allowance=9), await service.tenant(allowance=9)
    may_end = asyncio.Event()
    other.upstream.script(sse_answer(*HANGING), chat_stream(["One", "two"], between=may_end))
    caller = Caller(other, tenant, stream=True)
    asked = await other.upstream.wait_for_requests(1)
    untouched = Caller(other, neighbour, stream=True)
    await other.upstream.wait_for_requests(2)
    await caller.reads("Hel")
    await change(service, tenant)
    await caller.ends()
    assert (caller.status, caller.error()["code"]) == (200, code)
    assert "[DONE]" not in caller.text
    await _closed(asked)
    assert (await other.settled(tenant))[:2] == (1, 0)
    assert await _ended(other, tenant) == [("settled", "cut", 1, "estimate")]
    may_end.set()
    await untouched.ends()
    assert untouched.text.endswith("data: [DONE]\n\n")
    assert await _ended(other, neighbour) == [("settled", "complete", 1, "provider")]


@pytest.mark.parametrize(("change", "status", "code"), [REVOKED, SPENT])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_request_without_output_is_cut(
    service: RunningService, other: RunningService, change: Change, status: int, code: str, stream: bool
) -> None:
    """As long as nothing was passed on, the caller gets what a new request would get; the work is still charged."""
    tenant = await service.tenant(allowance=9)
    other.upstream.script(sse_answer(Step.HANG))
    caller = Caller(other, tenant, stream=stream)
    asked = await other.upstream.wait_for_requests(1)
    await change(service, tenant)
    await caller.ends()
    assert (caller.status, caller.error()["code"]) == (status, code)
    await _closed(asked)
    assert (await other.settled(tenant))[:2] == (1, 0)
    assert await _ended(other, tenant) == [("settled", "cut", 1, "estimate")]


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.path)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_every_endpoint_is_cut(service: RunningService, probe: Probe, stream: bool) -> None:
    """Whatever is served ends with the error in the form of its endpoint, and is settled."""
    tenant = await service.tenant(allowance=9)
    heard = sse_event({"type": "transcript.text.delta", "delta": "Hel"})
    service.upstream.script(sse_answer(*((heard, Step.HANG) if probe.is_form else HANGING)))
    caller = Caller(service, tenant, probe, stream=stream)
    asked = await service.upstream.wait_for_requests(1)
    if stream:
        await caller.reads("Hel")
    await _revoke(service, tenant)
    await caller.ends()
    assert caller.status == (200 if stream else 401)
    assert '"invalid_api_key"' in caller.text
    assert "[DONE]" not in caller.text
    assert "response.completed" not in caller.text
    await _closed(asked)
    assert (await service.settled(tenant))[:2] == (1, 0)
    assert [row[:2] for row in await _ended(service, tenant)] == [("settled", "cut")]


async def test_changes_that_take_no_right_cut_nothing(service: RunningService, other: RunningService) -> None:
    """A key that is renamed, and one whose allow-list still names the model's alias, go on; so does its workspace."""
    stub: Any = catalogue_service_pb2_grpc.CatalogueServiceStub(service.core.channel)  # type: ignore[no-untyped-call]
    alias = catalogue_service_pb2.SetModelAliasRequest(alias="fast", model_id=MODEL)
    await stub.SetModelAlias(alias, metadata=service.metadata())
    await _until_known(other, "fast")
    tenant = await service.tenant(allowance=9)
    may_end = asyncio.Event()
    other.upstream.script(chat_stream(["One", "two"], between=may_end))
    caller = Caller(other, tenant, stream=True)
    await other.upstream.wait_for_requests(1)
    await _update_key(service, tenant, "name", name="renamed")
    await _update_key(service, tenant, "allowed_models", allowed_models=["fast"])
    await asyncio.sleep(CUT_S)
    may_end.set()
    await caller.ends()
    assert caller.text.endswith("data: [DONE]\n\n")
    assert await _ended(other, tenant) == [("settled", "complete", 1, "provider")]
