"""A workspace that brings its own provider key: its requests go through it, and through no other key."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import ClientSession
from endpoint_probes import PROBES, Probe
from fakes.scripted_upstream import chat_answer, json_answer
from service import MODEL, RunningService, Tenant, start_service

from quillgate.v1 import completion_service_pb2, completion_service_pb2_grpc
from quillgate.v1 import provider_credential_service_pb2 as pb
from quillgate.v1.provider_credential_service_pb2_grpc import ProviderCredentialServiceStub
from quillgate_codec import chat_request

OWN = "sk-own-PLANTED-0123456789"
CATALOGUE = """
[providers.first]
base_url = "{base_url}"
api_key_env = "FIRST_KEY"

[providers.second]
base_url = "{base_url}"
api_key_env = "SECOND_KEY"

[providers.unkeyed]
base_url = "{base_url}"
api_key_env = "NOBODY_SET_THIS"

[[models]]
id = "two/model"
context_window = 128000
max_output_tokens = 8192
upstreams = [
  {{ provider = "first", model = "m1", price = {{ input = "1", output = "2" }} }},
  {{ provider = "second", model = "m2" }},
]

[[models]]
id = "own/model"
context_window = 128000
max_output_tokens = 8192
upstreams = [{{ provider = "unkeyed", model = "m3" }}]
"""


async def set_key(service: RunningService, tenant: Tenant, provider: str, **members: Any) -> None:
    """Gives a workspace a key of its own, as the admin."""
    stub: Any = ProviderCredentialServiceStub(service.core.channel)  # type: ignore[no-untyped-call]
    request = pb.SetProviderCredentialRequest(
        workspace_id=tenant.workspace_id, provider=provider, **{"secret": OWN, **members}
    )
    await stub.SetProviderCredential(request, metadata=service.metadata())


async def ask(
    service: RunningService, tenant: Tenant, probe: Probe = PROBES[0], **changes: Any
) -> tuple[int, Any, dict[str, str]]:
    """Asks one endpoint; returns status, text and headers."""
    async with ClientSession() as client:
        answer = await client.post(
            service.base_url + probe.path,
            headers={"authorization": f"Bearer {tenant.key}"},
            **probe.payload(**changes),
        )
        return answer.status, await answer.text(), {name.lower(): value for name, value in answer.headers.items()}


def sent_keys(service: RunningService) -> list[str]:
    """The keys that the provider was sent, in order."""
    return [request.headers.get("Authorization", "").removeprefix("Bearer ") for request in service.upstream.requests]


@pytest_asyncio.fixture
async def two(database_url: str, tmp_path: Path) -> AsyncIterator[RunningService]:
    """A service with two house keys for one model."""
    keys = {"FIRST_KEY": "house-first", "SECOND_KEY": "house-second"}
    async with start_service(database_url, tmp_path, catalogue_text=CATALOGUE, **keys) as service:
        yield service


async def own_day(service: RunningService, tenant: Tenant) -> tuple[int, ...]:
    """What the workspace's own keys served today: messages, input, output, requests, cost."""
    (row,) = await service.rows(
        "SELECT byok_message_count, byok_input_tokens, byok_output_tokens, byok_request_count, byok_cost_picodollars,"
        " message_count, held_messages, request_count, cost_picodollars"
        " FROM daily_message_count WHERE workspace_id = %s",
        tenant.workspace_id,
    )
    return tuple(int(value) for value in row)


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.path)
@pytest.mark.parametrize("stream", [False, True])
async def test_own_key_serves_every_endpoint(service: RunningService, probe: Probe, stream: bool) -> None:
    """With no allowance at all, the own key serves; nothing is drawn from the allowance, and the day says so apart."""
    tenant = await service.tenant(allowance=0)
    assert (await ask(service, tenant, probe, stream=stream))[0] == 429
    await set_key(service, tenant, "scripted")
    service.upstream.script(*probe.answers(stream=stream))
    status, text, headers = await ask(service, tenant, probe, stream=stream)
    assert (status, sent_keys(service)) == (200, [OWN]), text
    assert headers["x-quillgate-upstream"].startswith("scripted/")
    assert await own_day(service, tenant) == (1, 10, 5, 1, 0, 0, 0, 0, 0)
    other = await service.tenant(allowance=5)
    service.upstream.script(*probe.answers(stream=stream))
    assert (await ask(service, other, probe, stream=stream))[0] == 200
    assert sent_keys(service)[-1] != OWN


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [401, 402, 403])
async def test_refused_key_is_told_and_nothing_else_is_tried(two: RunningService, status: int, stream: bool) -> None:
    """A 401 names the provider; neither the house's key nor the next upstream is asked, and nothing is charged."""
    tenant = await two.tenant(allowance=5)
    await set_key(two, tenant, "first")
    two.upstream.script(json_answer(status, {"error": {"message": f"Incorrect API key provided: {OWN}"}}))
    answered, text, headers = await ask(two, tenant, model="two/model", stream=stream)
    assert answered == 401
    assert '"code":"provider_credential_rejected"' in text
    assert "`first`" in text
    assert OWN not in text + str(headers)
    assert sent_keys(two) == [OWN]
    assert await own_day(two, tenant) == (0,) * 9


@pytest.mark.parametrize("failure", [500, 429, 401])
async def test_fallback_is_the_workspace_s_choice(two: RunningService, failure: int) -> None:
    """Where it allows that, the house's keys serve what the own one cannot, and only that uses the allowance."""
    tenant = await two.tenant(allowance=5)
    await set_key(two, tenant, "first", allow_fallback=True)
    two.upstream.script(json_answer(failure, {"error": {"message": "no"}}))
    assert (await ask(two, tenant, model="two/model"))[0] == 200
    assert sent_keys(two) == [OWN, "house-first"]
    assert await own_day(two, tenant) == (0, 0, 0, 0, 0, 1, 0, 1, 10 * 10**6 + 5 * 2 * 10**6)
    assert (await ask(two, tenant, model="two/model"))[0] == 200
    assert sent_keys(two)[2:] == [OWN]
    assert (await own_day(two, tenant))[:4] == (1, 10, 5, 1)


async def test_failing_own_key_is_no_reason_for_the_house(two: RunningService) -> None:
    """An outage of the own upstream is told as one; the house's keys stay where they are."""
    tenant = await two.tenant(allowance=5)
    await set_key(two, tenant, "second")
    two.upstream.script(json_answer(500, {"error": {"message": "down"}}))
    assert (await ask(two, tenant, model="two/model"))[0] == 502
    assert sent_keys(two) == [OWN]


async def test_own_keys_with_both_providers_back_each_other(two: RunningService) -> None:
    """The keys of one workspace are all its own: one may serve when another's provider is down."""
    tenant = await two.tenant(allowance=0)
    await set_key(two, tenant, "first")
    await set_key(two, tenant, "second", secret="sk-own-second-0123456789")
    two.upstream.script(json_answer(500, {"error": {"message": "down"}}))
    assert (await ask(two, tenant, model="two/model"))[0] == 200
    assert sent_keys(two) == [OWN, "sk-own-second-0123456789"]


async def test_spent_allowance_does_not_stop_an_own_key_that_allows_others(two: RunningService) -> None:
    """With nothing left to hold for the house's keys, the own key still serves, alone."""
    tenant = await two.tenant(allowance=0)
    await set_key(two, tenant, "first", allow_fallback=True)
    assert (await ask(two, tenant, model="two/model"))[0] == 200
    two.upstream.script(json_answer(500, {"error": {"message": "down"}}))
    assert (await ask(two, tenant, model="two/model"))[0] == 502
    assert sent_keys(two) == [OWN, OWN]


async def test_model_of_a_provider_without_house_key(two: RunningService) -> None:
    """What the gateway has no key for is there for the workspace that brings one, and for nobody else."""
    tenant, other = await two.tenant(allowance=0), await two.tenant()
    assert (await ask(two, tenant, model="own/model"))[0] == 404
    await set_key(two, tenant, "unkeyed")
    assert (await ask(two, tenant, model="own/model"))[0] == 200
    assert (await ask(two, other, model="own/model"))[0] == 404
    assert sent_keys(two) == [OWN]


async def test_replica_that_is_behind_never_uses_the_house_key(database_url: str, tmp_path: Path) -> None:
    """A key that was set on one core a moment ago serves the very next request on another, by the reservation."""
    keys = {"FIRST_KEY": "house-first", "SECOND_KEY": "house-second"}
    async with (
        start_service(database_url, tmp_path, catalogue_text=CATALOGUE, **keys) as one,
        start_service(database_url, tmp_path, catalogue_text=CATALOGUE, admin_key=one.admin_key, **keys) as other,
    ):
        tenant = await one.tenant(allowance=5)
        assert (await ask(other, tenant, model="two/model"))[0] == 200
        for _ in range(3):
            await set_key(one, tenant, "first")
            assert (await ask(other, tenant, model="two/model"))[0] == 200
            stub: Any = ProviderCredentialServiceStub(one.core.channel)  # type: ignore[no-untyped-call]
            request = pb.DeleteProviderCredentialRequest(workspace_id=tenant.workspace_id, provider="first")
            await stub.DeleteProviderCredential(request, metadata=one.metadata())
            assert (await ask(other, tenant, model="two/model"))[0] == 200
        assert sent_keys(other) == ["house-first", *[OWN, "house-first"] * 3]


async def test_row_that_was_edited_serves_nobody(two: RunningService) -> None:
    """A base URL that was changed behind our back makes the key unusable; it is sent nowhere, nor is the house's."""
    tenant = await two.tenant(allowance=5)
    await set_key(two, tenant, "first")
    await two.rows(
        "WITH edited AS (UPDATE provider_credentials SET base_url = 'https://evil.example/v1'),"
        " bumped AS (UPDATE shared_revisions SET revision = revision + 1)"
        " UPDATE workspaces SET credential_revision = credential_revision + 1 WHERE workspace_id = %s RETURNING 1",
        tenant.workspace_id,
    )
    status, text, _ = await ask(two, tenant, model="two/model")
    assert (status, '"code":"provider_credential_rejected"' in text) == (401, True)
    assert sent_keys(two) == []


async def test_receipts_say_whose_key_it_was(running_service: RunningService) -> None:
    """gRPC callers see it in the receipt, with who answered, in the answer and in the trailing metadata."""
    tenant = await running_service.tenant()
    await set_key(running_service, tenant, "scripted")
    running_service.upstream.script(chat_answer())
    stub: Any = completion_service_pb2_grpc.CompletionServiceStub(running_service.core.channel)
    body = b'{"model": "%s", "messages": [{"role": "user", "content": "Hi"}]}' % MODEL.encode()
    call = stub.CreateChatCompletion(
        completion_service_pb2.CreateChatCompletionRequest(completion=chat_request.from_json(body)),
        metadata=running_service.metadata(tenant.key),
    )
    answer = await call
    assert (answer.receipt.byok, answer.upstream) == (True, "scripted/upstream-model")
    assert ("x-quillgate-upstream", "scripted/upstream-model") in [*await call.trailing_metadata()]
