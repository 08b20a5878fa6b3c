"""A client that hangs up on OpenRouter: the estimate becomes what OpenRouter tells later, whosever key it was."""

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from fakes.scripted_upstream import RecordedRequest, ScriptedAnswer, Step, chat_chunk, json_answer, sse_answer
from service import RunningService, Tenant, start_service

from quillgate.v1 import provider_credential_service_pb2 as pb
from quillgate.v1.provider_credential_service_pb2_grpc import ProviderCredentialServiceStub
from quillgate_core.app import LATE_TRUTH_S

CATALOGUE = """
[providers.openrouter]
base_url = "{base_url}"
api_key_env = "HOUSE_KEY"

[[models]]
id = "scripted/routed"
context_window = 128000
max_output_tokens = 8192
upstreams = [{{ provider = "openrouter", model = "some/model" }}]
"""
HOUSE_KEY = "sk-or-house"
OWN_KEY = "sk-or-own"


def record(request: RecordedRequest) -> ScriptedAnswer:
    """OpenRouter's record of an answer, which only the key that asked for it may see."""
    owner = {"id=gen-house": HOUSE_KEY, "id=gen-own": OWN_KEY}.get(request.query)
    if not request.path.endswith("/generation") or request.headers["authorization"] != f"Bearer {owner}":
        return json_answer(404, {"error": {"message": "Generation not found", "code": 404}})
    tokens = {"native_tokens_prompt": 40_000, "native_tokens_cached": 10_000, "native_tokens_completion": 20_000}
    return json_answer(200, {"data": {"id": "gen", **tokens, "total_cost": 0.0055}})


CHAT = ("chat/completions", {"messages": [{"role": "user", "content": "Hi"}]})
TEXT = ("completions", {"prompt": "Hi"})
RESPONSE = ("responses", {"input": "Hi"})


async def hang_up(
    service: RunningService, tenant: Tenant, generation: str, question: tuple[str, dict[str, Any]] = CHAT
) -> None:
    """Read the first words of a stream and leave."""
    first = chat_chunk({"role": "assistant", "content": "Hello"}, id=generation)
    service.upstream.script(sse_answer(first, Step.HANG))
    path, members = question
    body = {"model": "scripted/routed", "stream": True, **members}
    headers = {"authorization": f"Bearer {tenant.key}"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.post(f"{service.base_url}/{path}", json=body) as response,
    ):
        while b"Hello" not in await response.content.readline():
            pass
        response.close()
    async with asyncio.timeout(5):
        while not await service.rows(
            "SELECT FROM ledger WHERE workspace_id = %s AND state = 'settled' AND usage_source = 'estimate'"
            " AND upstream_request_id = %s",
            tenant.workspace_id,
            generation,
        ):
            await asyncio.sleep(0.01)


async def make_older(service: RunningService) -> None:
    """Let the seconds pass that the chore leaves to the provider."""
    await service.rows("UPDATE ledger SET settle_time = settle_time - interval '6 seconds' RETURNING 1")


async def day_of(service: RunningService, tenant: Tenant) -> tuple[Any, ...]:
    """The sums of the gateway's key, then those of the workspace's own."""
    (row,) = await service.rows(
        "SELECT message_count, input_tokens, cached_tokens, output_tokens, request_count, cost_picodollars,"
        " byok_message_count, byok_input_tokens, byok_output_tokens, byok_request_count, byok_cost_picodollars,"
        " unpriced_request_count FROM daily_message_count WHERE workspace_id = %s",
        tenant.workspace_id,
    )
    return tuple(int(value) for value in row)


async def test_an_estimate_becomes_what_the_provider_tells(database_url: str, tmp_path: Path) -> None:
    """Within a round of the chore, the day of each workspace holds the true usage and cost, in its own columns."""
    async with start_service(
        database_url, tmp_path, fallback=record, catalogue_text=CATALOGUE, HOUSE_KEY=HOUSE_KEY
    ) as service:
        house, own = await service.tenant(), await service.tenant()
        credentials: Any = ProviderCredentialServiceStub(service.core.channel)  # type: ignore[no-untyped-call]
        await credentials.SetProviderCredential(
            pb.SetProviderCredentialRequest(workspace_id=own.workspace_id, provider="openrouter", secret=OWN_KEY),
            metadata=service.metadata(),
        )
        await hang_up(service, house, "gen-house")
        await hang_up(service, own, "gen-own")
        assert (await day_of(service, house))[0] == 1
        await make_older(service)
        async with asyncio.timeout(LATE_TRUTH_S + 10):
            while len(await service.rows("SELECT FROM ledger_adjustments")) < 2:
                await asyncio.sleep(0.1)
        true = (4, 40_000, 10_000, 20_000, 1, 5_500_000_000)
        assert await day_of(service, house) == (*true, 0, 0, 0, 0, 0, 0)
        assert await day_of(service, own) == (0, 0, 0, 0, 0, 0, 4, 40_000, 20_000, 1, 5_500_000_000, 0)
        rows = await service.rows("SELECT state, usage_source, counted_messages FROM ledger ORDER BY workspace_id")
        assert rows == [("settled", "estimate", 1)] * 2


@pytest.mark.parametrize("question", [TEXT, RESPONSE])
async def test_every_streamed_endpoint_is_corrected(
    database_url: str, tmp_path: Path, question: tuple[str, dict[str, Any]]
) -> None:
    """Whatever a client speaks: what is translated to chat keeps the id that OpenRouter knows it by."""
    async with start_service(
        database_url, tmp_path, fallback=record, catalogue_text=CATALOGUE, HOUSE_KEY=HOUSE_KEY
    ) as service:
        tenant = await service.tenant()
        await hang_up(service, tenant, "gen-house", question)
        await make_older(service)
        async with asyncio.timeout(LATE_TRUTH_S + 10):
            while not await service.rows("SELECT FROM ledger_adjustments"):
                await asyncio.sleep(0.1)
        assert (await day_of(service, tenant))[:5] == (4, 40_000, 10_000, 20_000, 1)
