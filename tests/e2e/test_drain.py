"""Callers that hang up on a provider which is set to drain: it is read to its usage, and that is what is charged."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from endpoint_probes import JSON_PROBES, Probe
from fakes.scripted_upstream import ScriptedAnswer, chat_answer, chat_stream
from service import MODEL, RunningService, Tenant, start_service

CATALOGUE = """
[providers.scripted]
base_url = "{base_url}"
on_hang_up = "drain"

[[models]]
id = "scripted/model"
context_window = 128000
max_output_tokens = 8192
upstreams = [{{ provider = "scripted", model = "upstream-model" }}]
"""


@pytest_asyncio.fixture(params=["together", "apart"])
async def drained(request: pytest.FixtureRequest, database_url: str, tmp_path: Path) -> AsyncIterator[RunningService]:
    """A service whose provider bills what it has begun."""
    async with start_service(database_url, tmp_path, shape=request.param, catalogue_text=CATALOGUE) as running:
        yield running


async def _leave(service: RunningService, tenant: Tenant, probe: Probe, *, stream: bool) -> None:
    """Asks over a bare socket and hangs up as soon as the provider has been asked; of a stream, after some output."""
    host, port = service.http_url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    payload = json.dumps({**probe.members, "model": MODEL, "stream": stream}).encode()
    head = (
        f"POST /v1{probe.path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {tenant.key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n"
    )
    writer.write(head.encode() + payload)
    await writer.drain()
    await service.upstream.wait_for_requests(1)
    async with asyncio.timeout(5):
        while stream and b"data: " not in await reader.readline():
            pass
    writer.transport.abort()


def _held_answer(may_end: asyncio.Event, *, stream: bool) -> ScriptedAnswer:
    """An answer with usage 1,000 / 40,000 that does not end before it may."""
    usage = {"prompt_tokens": 1_000, "completion_tokens": 40_000}
    if stream:
        return chat_stream(["One", "two"], between=may_end, **usage)  # type: ignore[arg-type]
    whole = chat_answer(**usage)  # type: ignore[arg-type]
    return ScriptedAnswer(whole.status, whole.headers, whole.steps, before=[may_end])


async def _rows(service: RunningService, tenant: Tenant) -> list[tuple[object, ...]]:
    return await service.rows(
        "SELECT state, outcome, usage_source, prompt_tokens, completion_tokens FROM ledger WHERE workspace_id = %s",
        tenant.workspace_id,
    )


@pytest.mark.parametrize("probe", JSON_PROBES, ids=lambda probe: probe.path)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_provider_is_read_to_its_usage(drained: RunningService, probe: Probe, stream: bool) -> None:
    """Its connection stays open after the hang-up, and the row ends with the usage that it tells at its end."""
    tenant = await drained.tenant(allowance=9)
    may_end = asyncio.Event()
    drained.upstream.script(_held_answer(may_end, stream=stream))
    await _leave(drained, tenant, probe, stream=stream)
    asked = drained.upstream.requests[0]
    await asyncio.sleep(0.5)
    assert not asked.disconnected.is_set()
    assert [row[0] for row in await _rows(drained, tenant)] == ["open"]
    may_end.set()
    async with asyncio.timeout(5):
        await asked.finished.wait()
    await drained.settled(tenant)
    assert await _rows(drained, tenant) == [("settled", "drained", "provider", 1_000, 40_000)]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_stop_settles_what_is_read_on(database_url: str, tmp_path: Path, stream: bool) -> None:
    """When the core stops, the provider is left and what was observed is settled before it is gone."""
    async with start_service(database_url, tmp_path, catalogue_text=CATALOGUE) as service:
        tenant = await service.tenant(allowance=9)
        service.upstream.script(_held_answer(asyncio.Event(), stream=stream))
        await _leave(service, tenant, JSON_PROBES[0], stream=stream)
        await asyncio.sleep(0.5)
        assert [row[0] for row in await _rows(service, tenant)] == ["open"]
    assert [row[:3] for row in await _rows(service, tenant)] == [("settled", "caller_gone", "estimate")]
