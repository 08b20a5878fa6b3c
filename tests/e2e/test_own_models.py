"""A provider for which only a workspace brings a key: its models are there for that workspace, and for no other."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI, NotFoundError
from service import RunningService, Tenant, start_service

from quillgate.v1 import provider_credential_service_pb2 as pb
from quillgate.v1.provider_credential_service_pb2_grpc import ProviderCredentialServiceStub

CATALOGUE = """
[providers.other]
base_url = "{base_url}"
api_key_env = "OTHER_API_KEY"

[[models]]
id = "other/model"
context_window = 128000
max_output_tokens = 8192
upstreams = [{{ provider = "other", model = "upstream-model" }}]
"""
KEY = "sk-own-0123456789abcdef"


async def _bring_key(service: RunningService, tenant: Tenant, provider: str) -> None:
    stub: Any = ProviderCredentialServiceStub(service.core.channel)
    request = pb.SetProviderCredentialRequest(provider=provider, secret=KEY, workspace_id=tenant.workspace_id)
    await stub.SetProviderCredential(request, metadata=service.metadata())


async def _ids(client: AsyncOpenAI) -> set[str]:
    return {model.id async for model in client.models.list()}


async def test_own_key_opens_its_models(database_url: str, tmp_path: Path) -> None:
    """With its own key a workspace sees and uses what the gateway has no key for; with OpenAI's, OpenAI's models."""
    async with start_service(database_url, tmp_path, catalogue_text=CATALOGUE) as service:
        own, other = await service.tenant(), await service.tenant()
        async with (
            AsyncOpenAI(base_url=service.base_url, api_key=own.key) as with_key,
            AsyncOpenAI(base_url=service.base_url, api_key=other.key) as without,
        ):
            assert "other/model" not in await _ids(with_key)
            await _bring_key(service, own, "other")
            async with asyncio.timeout(2):
                while "other/model" not in await _ids(with_key):
                    await asyncio.sleep(0.05)
            answer = await with_key.chat.completions.create(
                model="other/model", messages=[{"role": "user", "content": "Hi"}]
            )
            assert answer.model == "other/model"
            assert service.upstream.requests[-1].headers["Authorization"] == f"Bearer {KEY}"
            assert "other/model" not in await _ids(without)
            for call in (
                without.models.retrieve("other/model"),
                without.chat.completions.create(model="other/model", messages=[{"role": "user", "content": "Hi"}]),
            ):
                with pytest.raises(NotFoundError):
                    await call
            before = await _ids(with_key)
            await _bring_key(service, own, "openai")
            async with asyncio.timeout(2):
                while "openai/gpt-4o" not in await _ids(with_key):
                    await asyncio.sleep(0.05)
            assert before < await _ids(with_key)
            assert "openai/gpt-4o" not in await _ids(without)
