"""Every route of the facade either leaves a final ledger row behind, whatever its end, or is free on purpose."""

import asyncio
from typing import Any

import pytest
from aiohttp import ClientSession
from endpoint_probes import PROBES, Probe
from fakes.scripted_upstream import Step, json_answer, sse_answer
from service import MODEL, RunningService, Tenant

from quillgate_facade.app import build_app
from quillgate_facade.config import FacadeConfig
from quillgate_facade.routes import PREFIXES

#: What costs nothing, because no provider is asked. Who adds a line here says why.
FREE = {
    ("GET", "/models"),  # the catalogue
    ("GET", "/models/{model}"),
    ("GET", "/responses/{response_id}"),  # what was stored and paid when it was made
    ("DELETE", "/responses/{response_id}"),
    ("GET", "/responses/{response_id}/input_items"),
    ("POST", "/responses/{response_id}/cancel"),  # nothing runs in the background yet
    ("GET", "/key"),  # what was used, and what is left
    ("GET", "/usage"),
    ("GET", "/healthz"),  # probes
    ("GET", "/readyz"),
}
ROWS = "SELECT state, outcome, counted_messages, endpoint FROM ledger WHERE workspace_id = %s"
METERING = pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.path)
STREAMING = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


def _routes(service: RunningService) -> set[tuple[str, str]]:
    """Every route of a real facade, without prefixes and without what answers anything."""
    channel: Any = service.core.channel
    found = set()
    for route in build_app(channel, FacadeConfig()).router.routes():
        assert route.resource is not None
        path = route.resource.canonical
        for prefix in PREFIXES:
            path = path.removeprefix(prefix)
        if route.method not in ("*", "HEAD", "OPTIONS"):
            found.add((route.method, path))
    return found


def _headers(tenant: Tenant) -> dict[str, str]:
    return {"authorization": f"Bearer {tenant.key}"}


async def test_every_route_is_accounted_for(service: RunningService) -> None:
    """A new route is either in PROBES, and so proven to meter, or on the list of free ones."""
    assert _routes(service) == FREE | {("POST", probe.path) for probe in PROBES}


@METERING
@STREAMING
async def test_complete_answers_meter(service: RunningService, probe: Probe, stream: bool) -> None:
    """A whole answer is settled by the time that its client has it."""
    tenant = await service.tenant()
    service.upstream.script(*probe.answers(stream=stream))
    async with (
        ClientSession(headers=_headers(tenant)) as http,
        http.post(service.base_url + probe.path, **probe.payload(stream=stream)) as answer,
    ):
        assert answer.status == 200, await answer.text()
        await answer.read()
    ((state, outcome, counted, endpoint),) = await service.rows(ROWS, tenant.workspace_id)
    assert (state, outcome, counted) == ("settled", "complete", 1)
    assert endpoint == probe.path.strip("/").replace("/", ".")
    assert (await service.settled(tenant))[:2] == (1, 0)


@METERING
@STREAMING
async def test_failures_before_any_output_are_released(service: RunningService, probe: Probe, stream: bool) -> None:
    """A provider that fails leaves a row that ended without a charge."""
    tenant = await service.tenant()
    service.upstream.script(json_answer(503, {"error": {"message": "down"}}))
    async with (
        ClientSession(headers=_headers(tenant)) as http,
        http.post(service.base_url + probe.path, **probe.payload(stream=stream)) as answer,
    ):
        body = await answer.text()
    assert answer.status == 502 or "event: response.failed" in body
    assert await service.settled(tenant) == (0, 0, 0, 0, 0, 0)
    ((state, outcome, counted, _),) = await service.rows(ROWS, tenant.workspace_id)
    assert (state, outcome, counted) == ("released", "provider_failed", 0)


@METERING
@STREAMING
async def test_hang_ups_meter(service: RunningService, probe: Probe, stream: bool) -> None:
    """A client that leaves is charged what was observed, and nothing stays held."""
    tenant = await service.tenant()
    service.upstream.script(sse_answer(Step.HANG))
    async with ClientSession(headers=_headers(tenant)) as http:
        asking = asyncio.create_task(
            http.post(service.base_url + probe.path, **probe.payload(stream=stream))  # type: ignore[arg-type]
        )
        asked = await service.upstream.wait_for_requests(1)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        async with asyncio.timeout(5):
            await asked.disconnected.wait()
    assert (await service.settled(tenant))[:2] == (1, 0)
    ((state, outcome, counted, _),) = await service.rows(ROWS, tenant.workspace_id)
    assert (state, outcome, counted) == ("settled", "caller_gone", 1)


@pytest.mark.parametrize(("method", "path"), sorted(FREE))
async def test_free_routes_cost_nothing(service: RunningService, method: str, path: str) -> None:
    """What stands on the free list reserves nothing and asks no provider, for a key that may do everything else."""
    tenant = await service.tenant()
    base = service.http_url if path in ("/healthz", "/readyz") else service.base_url
    url = base + path.format(model=MODEL, response_id="resp_none")
    async with (
        ClientSession(headers=_headers(tenant)) as http,
        http.request(method, url) as answer,
    ):
        assert answer.status in (200, 404)
    assert await service.rows(ROWS, tenant.workspace_id) == []
    assert service.upstream.requests == []
