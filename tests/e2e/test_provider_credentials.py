"""Provider keys on the whole service: the CLI against a real core, two cores that agree, a rotation over restarts."""

import asyncio
import base64
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import ClientSession
from fakes.scripted_upstream import json_answer
from service import MODEL, RunningService, Tenant, start_service

from quillgate.v1 import provider_credential_service_pb2 as pb
from quillgate.v1.provider_credential_service_pb2_grpc import ProviderCredentialServiceStub
from quillgate_core.app import OWN_KEYS_POLL_S
from quillgate_core.errors import ProviderCredentialRejected
from quillgate_core.sealing import MasterKey

KEY = "sk-PLANTED-0123456789"
PROVIDER = "scripted"


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The document that it printed."""
        return msgspec.json.decode(self.out)


async def cli(service: RunningService, *arguments: str, stdin: str = "", key: str = "") -> Done:
    """Runs `quillgate credentials …` as a process, with the admin's key unless another is given."""
    keep = {name: value for name, value in os.environ.items() if not name.startswith(("QUILLGATE_", "PYTEST"))}
    environ = {**keep, "QUILLGATE_CORE_ADDRESS": service.grpc_address, "QUILLGATE_KEY": key or service.admin_key}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "quillgate_cli", "credentials", *arguments),
        env=environ,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        out, err = await process.communicate(stdin.encode())
    assert process.returncode is not None
    return Done(process.returncode, out.decode(), err.decode())


async def used_key(service: RunningService, tenant: Tenant) -> str:
    """The key that the provider gets with a request of the workspace."""
    members = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}
    headers = {"authorization": f"Bearer {tenant.key}"}
    async with (
        ClientSession() as client,
        client.post(f"{service.base_url}/chat/completions", json=members, headers=headers) as answer,
    ):
        assert answer.status == 200, await answer.text()
    return service.upstream.requests[-1].headers["Authorization"].removeprefix("Bearer ")


async def test_the_whole_life_of_a_key(running_service: RunningService) -> None:
    """Set, listed, tested, replaced and deleted with the CLI; routing has the newest at once."""
    tenant = await running_service.tenant(scopes=["workspace.admin", "inference"])
    of = running_service.core.provider_credentials.of
    made = await cli(running_service, "set", PROVIDER, "--json", stdin=KEY, key=tenant.key)
    assert (made.code, made.err) == (0, "")
    assert made.json["credential"]["workspace_id"] == tenant.workspace_id
    assert await used_key(running_service, tenant) == KEY
    await cli(running_service, "set", PROVIDER, "--workspace", tenant.workspace_id, "--allow-fallback", stdin="second")
    assert await used_key(running_service, tenant) == "second"
    assert of(tenant.workspace_id).keys[PROVIDER].allow_fallback
    listed = (await cli(running_service, "list", "--json", key=tenant.key)).json["credentials"]
    assert [(found["provider"], found["last4"]) for found in listed] == [(PROVIDER, "")]
    running_service.upstream.script(json_answer(200, {"object": "list", "data": []}), json_answer(401, {}))
    tested = await cli(running_service, "test", PROVIDER, key=tenant.key)
    assert (tested.code, running_service.upstream.requests[-1].method) == (0, "GET")
    assert running_service.upstream.requests[-1].headers["Authorization"] == "Bearer second"
    refused = await cli(running_service, "test", PROVIDER, key=tenant.key)
    assert (refused.code, "second" in refused.out + refused.err) == (1, False)
    assert (await cli(running_service, "delete", PROVIDER, key=tenant.key)).code == 0
    assert dict(of(tenant.workspace_id).keys) == {}
    gone = await cli(running_service, "delete", PROVIDER, key=tenant.key)
    assert (gone.code, gone.out) == (4, "")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["list"], 3),
        (["set", PROVIDER], 3),
        (["rewrap"], 3),
        (["list", "--workspace", "ws_" + "0" * 20], 3),
    ],
)
async def test_a_developer_key_may_do_nothing_here(
    running_service: RunningService, arguments: list[str], code: int
) -> None:
    """An ordinary key is refused for lack of scope, with the exit code that says so."""
    done = await cli(running_service, *arguments, stdin=KEY, key=running_service.developer_key)
    assert (done.code, done.out, "workspace.admin" in done.err or "platform.admin" in done.err) == (code, "", True)


async def test_two_cores_agree_soon(database_url: str, tmp_path: Path) -> None:
    """What is set, replaced or deleted on one core is known to the other within two seconds."""
    async with (
        start_service(database_url, tmp_path) as one,
        start_service(database_url, tmp_path, admin_key=one.admin_key) as other,
    ):
        stub: Any = ProviderCredentialServiceStub(one.core.channel)  # type: ignore[no-untyped-call]
        tenant = await one.tenant()
        workspace_id = tenant.workspace_id
        metadata = one.metadata()

        async def wait_for(revision: int) -> None:
            async with asyncio.timeout(2 * OWN_KEYS_POLL_S):
                while other.core.provider_credentials.of(workspace_id).revision < revision:
                    await asyncio.sleep(0.01)

        for revision, secret in enumerate((KEY, "second"), 1):
            request = pb.SetProviderCredentialRequest(workspace_id=workspace_id, provider=PROVIDER, secret=secret)
            await stub.SetProviderCredential(request, metadata=metadata)
            await wait_for(revision)
            assert await used_key(other, tenant) == secret
        deletion = pb.DeleteProviderCredentialRequest(workspace_id=workspace_id, provider=PROVIDER)
        await stub.DeleteProviderCredential(deletion, metadata=metadata)
        await wait_for(3)
        assert dict(other.core.provider_credentials.of(workspace_id).keys) == {}


async def test_a_rotation_over_restarts(database_url: str, tmp_path: Path) -> None:
    """Put the new master key first, restart, rewrap, take the old one away, restart: every key still opens."""
    file = tmp_path / "master-key"
    new = base64.b64encode(b"n" * 32).decode()
    async with start_service(database_url, tmp_path) as service:
        admin_key = service.admin_key
        tenants = [await service.tenant() for _ in range(3)]
        for tenant in tenants:
            secret = KEY + tenant.workspace_id
            await cli(service, "set", PROVIDER, "--workspace", tenant.workspace_id, stdin=secret)
    old = file.read_text()
    file.write_text(f"{new}\n{old}")
    async with start_service(database_url, tmp_path, admin_key=admin_key) as service:
        assert await used_key(service, tenants[0]) == KEY + tenants[0].workspace_id
        done = await cli(service, "rewrap", "--json")
        assert (done.code, done.json) == (
            0,
            {"rewrapped": 3, "remaining": 0, "unreadable": 0, "master_key_id": MasterKey(b"n" * 32).key_id},
        )
    async with start_service(database_url, tmp_path, admin_key=admin_key, QUILLGATE_MASTER_KEY=new) as service:
        for tenant in tenants:
            assert await used_key(service, tenant) == KEY + tenant.workspace_id
    file.write_text(old)
    async with start_service(database_url, tmp_path, admin_key=admin_key) as service:
        keys = service.core.provider_credentials.of(tenants[0].workspace_id).keys
        with pytest.raises(ProviderCredentialRejected):
            keys[PROVIDER].open()
        done = await cli(service, "rewrap", "--json")
        assert (done.code, done.json["remaining"], done.json["unreadable"]) == (1, 3, 3)
