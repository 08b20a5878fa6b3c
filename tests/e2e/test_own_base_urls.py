"""Base URLs that workspaces bring: private ones are never reached unless the operator's file allows their host."""

from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from fakes.small_internet import open_trap
from service import RunningService, Tenant, start_service

from quillgate.v1 import provider_credential_service_pb2 as pb
from quillgate.v1.provider_credential_service_pb2_grpc import ProviderCredentialServiceStub

CATALOGUE = """
allowed_hosts = {allowed}

[providers.vendor]
base_url = "{{base_url}}"

[[models]]
id = "vendor/model"
context_window = 128000
max_output_tokens = 8192
upstreams = [{{{{ provider = "vendor", model = "m" }}}}]
"""
NOBODY = CATALOGUE.format(allowed="[]")


async def bring(service: RunningService, tenant: Tenant, base_url: str) -> None:
    """Give the workspace a key of its own at a base URL of its own."""
    stub: Any = ProviderCredentialServiceStub(service.core.channel)  # type: ignore[no-untyped-call]
    request = pb.SetProviderCredentialRequest(
        workspace_id=tenant.workspace_id, provider="vendor", secret="own-key-canary", base_url=base_url
    )
    await stub.SetProviderCredential(request, metadata=service.metadata())


async def ask(service: RunningService, tenant: Tenant) -> tuple[int, str]:
    """Ask for a chat; the status and the body."""
    body = {"model": "vendor/model", "messages": [{"role": "user", "content": "Hi"}]}
    headers = {"authorization": f"Bearer {tenant.key}"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.post(f"{service.base_url}/chat/completions", json=body) as response,
    ):
        return response.status, await response.text()


HOSTS = ["127.0.0.1", "localhost", "[::1]", "127.1", "0x7f000001", "[::ffff:127.0.0.1]"]


@pytest.mark.parametrize("host", HOSTS)
async def test_a_private_host_is_out_of_reach(database_url: str, tmp_path: Path, host: str) -> None:
    """Also one that was set while the operator allowed it: the address is judged again whenever it is connected to.

    The request fails like one to a provider that is down, nobody is connected to, and nothing is told of why.
    """
    with open_trap() as trap:
        allowed = CATALOGUE.format(allowed=repr([host]))
        async with start_service(database_url, tmp_path, catalogue_text=allowed) as service:
            tenant, admin_key = await service.tenant(), service.admin_key
            await bring(service, tenant, f"https://{host}:{trap.port}/v1")
        async with start_service(database_url, tmp_path, catalogue_text=NOBODY, admin_key=admin_key) as service:
            status, body = await ask(service, tenant)
            assert service.upstream.requests == []
        assert trap.count() == 0
    assert status == 502
    assert "could not be reached" in body
    for hidden in (host, str(trap.port), "own-key-canary", "loopback"):
        assert hidden not in body


async def test_a_host_that_is_not_public_is_refused_when_it_is_set(database_url: str, tmp_path: Path) -> None:
    """Whoever sets the URL hears it, in whatever way the address is written; nothing is stored."""
    async with start_service(database_url, tmp_path, catalogue_text=NOBODY) as service:
        tenant = await service.tenant()
        for host in (*HOSTS, "169.254.169.254", "[::ffff:10.0.0.1]", "2130706433"):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await bring(service, tenant, f"https://{host}/v1")
            assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
            assert "public host" in (caught.value.details() or "")
        assert await service.rows("SELECT count(*) FROM provider_credentials") == [(0,)]


async def test_plain_http_is_refused_when_it_is_set(database_url: str, tmp_path: Path) -> None:
    """Whoever sets the URL hears it; nothing is stored."""
    async with start_service(database_url, tmp_path, catalogue_text=NOBODY) as service:
        tenant = await service.tenant()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await bring(service, tenant, service.upstream.base_url)
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_a_host_that_the_operator_allows_is_reached(database_url: str, tmp_path: Path) -> None:
    """Then http and a private address are fine, with the workspace's own key."""
    allowed = CATALOGUE.format(allowed='["127.0.0.1"]')
    async with start_service(database_url, tmp_path, catalogue_text=allowed) as service:
        tenant = await service.tenant()
        await bring(service, tenant, service.upstream.base_url)
        status, _ = await ask(service, tenant)
        assert status == 200
        (request,) = service.upstream.requests
        assert request.headers["authorization"] == "Bearer own-key-canary"
