"""Every endpoint that meters refuses alike: status, type, code, param, headers; nothing is sent and nothing charged."""

from typing import Any

import pytest
from aiohttp import ClientSession, FormData
from endpoint_probes import JSON_PROBES, PROBES, Probe
from service import MODEL, RunningService, Tenant

BAD = "invalid_request_error"
METERING = pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.path)
TAKING_JSON = pytest.mark.parametrize("probe", JSON_PROBES, ids=lambda probe: probe.path)
STREAMING = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


async def refused(
    service: RunningService, probe: Probe, payload: dict[str, Any], *, key: str | None
) -> tuple[int, str, str | None, str | None]:
    """Asks, checks what all refusals share, and returns status, type, code and param."""
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    async with (
        ClientSession(headers=headers) as http,
        http.post(service.base_url + probe.path, **payload) as answer,
    ):
        body = await answer.json()
    assert answer.content_type == "application/json"
    assert list(body) == ["error"]
    error = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert answer.headers["x-request-id"].startswith("req_")
    assert answer.headers["openai-version"] == "2020-10-01"
    assert int(answer.headers["openai-processing-ms"]) >= 0
    if answer.status in (409, 429):
        assert answer.headers["x-should-retry"] == "false"
    assert service.upstream.requests == []
    assert await service.rows("SELECT request_id FROM ledger") == []
    return answer.status, error["type"], error["code"], error["param"]


async def tenant_key(service: RunningService, **settings: Any) -> str:
    """The key of a new workspace."""
    tenant: Tenant = await service.tenant(**settings)
    return tenant.key


@TAKING_JSON
@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[]", b'"x"', b"null"])
async def test_bodies_that_are_no_object(service: RunningService, probe: Probe, body: bytes) -> None:
    """What is no JSON object is a bad request."""
    payload = {"data": body, "headers": {"content-type": "application/json"}}
    status, kind, _, _ = await refused(service, probe, payload, key=await tenant_key(service))
    assert (status, kind) == (400, BAD)


@TAKING_JSON
async def test_forms_where_json_is_due(service: RunningService, probe: Probe) -> None:
    """A form is a bad request."""
    form = FormData({"model": MODEL}, default_to_multipart=True)
    status, kind, _, _ = await refused(service, probe, {"data": form}, key=await tenant_key(service))
    assert (status, kind) == (400, BAD)


@METERING
@STREAMING
async def test_keys_that_are_refused(service: RunningService, probe: Probe, stream: bool) -> None:
    """No key has no code, a wrong one is `invalid_api_key`, and both are 401."""
    payload = probe.payload(stream=stream)
    assert await refused(service, probe, payload, key=None) == (401, BAD, None, None)
    assert await refused(service, probe, payload, key="sk-wrong") == (401, BAD, "invalid_api_key", None)


@METERING
@STREAMING
async def test_models_that_are_refused(service: RunningService, probe: Probe, stream: bool) -> None:
    """A model that is not there is 404, one that the key may not use 403, and none at all 400."""
    key = await tenant_key(service)
    unknown = probe.payload(stream=stream, model="no/model")
    assert await refused(service, probe, unknown, key=key) == (404, BAD, "model_not_found", None)
    missing = probe.payload(stream=stream, model=None)
    assert await refused(service, probe, missing, key=key) == (400, BAD, "missing_required_parameter", "model")
    narrow = await tenant_key(service, allowed_models=["other/model"])
    outcome = await refused(service, probe, probe.payload(stream=stream), key=narrow)
    assert outcome == (403, BAD, "model_not_allowed", None)


@TAKING_JSON
@pytest.mark.parametrize(
    ("member", "value"), [("model", 5), ("model", [MODEL]), ("stream", "yes"), ("temperature", "hot"), ("user", {})]
)
async def test_wrong_types(service: RunningService, probe: Probe, member: str, value: object) -> None:
    """A member of the wrong type is a bad request that names it."""
    payload = probe.payload(**{member: value})
    assert await refused(service, probe, payload, key=await tenant_key(service)) == (400, BAD, "invalid_type", member)


@METERING
@STREAMING
async def test_spent_allowance(service: RunningService, probe: Probe, stream: bool) -> None:
    """Without a message left the answer is 429, says when to come back, and that a retry cannot help."""
    key = await tenant_key(service, allowance=0)
    outcome = await refused(service, probe, probe.payload(stream=stream), key=key)
    assert outcome == (429, "insufficient_quota", "insufficient_quota", None)


@METERING
async def test_keys_without_the_scope(service: RunningService, probe: Probe) -> None:
    """A key that may only read usage is 403."""
    key = await tenant_key(service, scopes=["usage.read"])
    outcome = await refused(service, probe, probe.payload(stream=False), key=key)
    assert outcome == (403, BAD, "insufficient_permissions", None)


@METERING
async def test_unusable_idempotency_keys(service: RunningService, probe: Probe) -> None:
    """An Idempotency-Key that cannot be one is a bad request, everywhere."""
    payload = {**probe.payload(stream=False), "headers": {"idempotency-key": "a b"}}
    outcome = await refused(service, probe, payload, key=await tenant_key(service))
    assert outcome == (400, BAD, "invalid_value", "idempotency-key")
