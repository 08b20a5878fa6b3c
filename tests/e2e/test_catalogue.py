"""Models are switched and named while everything runs, on all replicas of a database."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from openai import AsyncOpenAI, NotFoundError, PermissionDeniedError
from openai_clients import Connect
from service import BIG_MODEL, MODEL, RunningService, start_service

from quillgate.v1 import catalogue_service_pb2 as pb
from quillgate.v1 import catalogue_service_pb2_grpc

REACH_S = 2.0
"""By when a change must hold on every replica."""


def _catalogue(service: RunningService) -> Callable[..., Any]:
    """Calls CatalogueService as the admin."""
    stub: Any = catalogue_service_pb2_grpc.CatalogueServiceStub(service.core.channel)

    async def call(method: str, request: Any) -> Any:
        return await getattr(stub, method)(request, metadata=service.metadata())

    return call


async def _ask(client: AsyncOpenAI, model: str) -> str:
    answer = await client.chat.completions.create(model=model, messages=[{"role": "user", "content": "Hi"}])
    return answer.model


async def _until_unknown(client: AsyncOpenAI, model: str) -> None:
    async with asyncio.timeout(REACH_S):
        while True:
            try:
                await client.models.retrieve(model)
            except NotFoundError:
                return
            await asyncio.sleep(0.05)


@pytest_asyncio.fixture
async def other(service: RunningService, tmp_path: Path) -> AsyncIterator[RunningService]:
    """A second service on the same database."""
    directory = tmp_path / "other"
    directory.mkdir()
    (directory / "pepper").write_bytes((tmp_path / "pepper").read_bytes())
    async with start_service(service.database_url, directory, admin_key=service.admin_key) as running:
        yield running


async def test_disabled_model_is_gone_on_every_replica(service: RunningService, other: RunningService) -> None:
    """A model that is switched off is 404 on both cores within two seconds, listed on neither, and comes back."""
    call = _catalogue(service)
    clients = [AsyncOpenAI(base_url=one.base_url, api_key=service.developer_key) for one in (service, other)]
    switched = await call("SetModelEnabled", pb.SetModelEnabledRequest(id=MODEL, enabled=False))
    assert (switched.model.enabled, switched.model.served) == (False, False)
    for client in clients:
        await _until_unknown(client, MODEL)
        assert MODEL not in {model.id async for model in client.models.list()}
        with pytest.raises(NotFoundError) as caught:
            await _ask(client, MODEL)
        assert caught.value.code == "model_not_found"
    await call("SetModelEnabled", pb.SetModelEnabledRequest(id=MODEL, enabled=True))
    assert await _ask(clients[0], MODEL) == MODEL
    async with asyncio.timeout(REACH_S):
        while MODEL not in {model.id async for model in clients[1].models.list()}:
            await asyncio.sleep(0.05)
    for client in clients:
        await client.close()


async def test_alias_answers(service: RunningService, connect: Connect) -> None:
    """A model answers to its alias, under the alias, on each of its endpoints, and is what the ledger has."""
    call, client = _catalogue(service), connect()
    named = await call("SetModelAlias", pb.SetModelAliasRequest(alias="fast", model_id=MODEL))
    assert list(named.model.aliases) == ["fast"]
    assert await _ask(client, "fast") == "fast"
    text = await client.completions.create(model="fast", prompt="Hi")
    assert text.model == "fast"
    response = await client.responses.create(model="fast", input="Hi")
    assert response.model == "fast"
    assert await service.rows("SELECT DISTINCT model FROM ledger") == [(MODEL,)]
    model, same = await client.models.retrieve(MODEL), await client.models.retrieve("fast")
    assert same.model_copy(update={"id": MODEL}) == model
    assert "fast" not in {model.id async for model in client.models.list()}
    await call("SetModelAlias", pb.SetModelAliasRequest(alias="fast", model_id=BIG_MODEL))
    assert (await client.models.retrieve("fast")).model_extra["context_window"] == 1_000_000  # type: ignore[index]
    await call("DeleteModelAlias", pb.DeleteModelAliasRequest(alias="fast"))
    with pytest.raises(NotFoundError):
        await _ask(client, "fast")


async def test_allow_lists_know_aliases(service: RunningService, connect: Connect) -> None:
    """A key that may use a model may use its alias; one that may use an alias sees and uses that alone."""
    await _catalogue(service)("SetModelAlias", pb.SetModelAliasRequest(alias="fast", model_id=MODEL))
    by_id = connect((await service.tenant(allowed_models=[MODEL])).key)
    by_alias = connect((await service.tenant(allowed_models=["fast"])).key)
    neither = connect((await service.tenant(allowed_models=[BIG_MODEL])).key)
    assert await _ask(by_id, "fast") == "fast"
    assert await _ask(by_alias, "fast") == "fast"
    assert [model.id async for model in by_id.models.list()] == [MODEL]
    assert [model.id async for model in by_alias.models.list()] == ["fast"]
    with pytest.raises(PermissionDeniedError):
        await _ask(by_alias, MODEL)
    with pytest.raises(PermissionDeniedError):
        await _ask(neither, "fast")
    with pytest.raises(NotFoundError):
        await neither.models.retrieve("fast")
