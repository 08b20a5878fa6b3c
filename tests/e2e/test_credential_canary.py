"""Planted secrets are nowhere: not in the database, a log, an error, a `repr` or the CLI's output."""

import asyncio
import base64
import logging
import sys
from collections.abc import Awaitable
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from fakes.canary import Canary, dump
from fakes.credential_site import OLD
from fakes.http_lister import listing_account
from fakes.scripted_upstream import ScriptedUpstream, bytes_answer, json_answer
from fakes.site import open_site
from service import RunningService, start_service
from sqlalchemy import Engine, text

from quillgate.v1 import provider_credential_service_pb2 as pb
from quillgate.v1.provider_credential_service_pb2_grpc import ProviderCredentialServiceStub
from quillgate_core.catalogue_file import ProviderConfig
from quillgate_core.errors import QuillgateError
from quillgate_core.provider_credentials import ProviderCredentials
from quillgate_core.providers.address_guard import url_denial
from quillgate_core.providers.http_pool import HttpPool
from quillgate_core.sealing import MasterKeys
from quillgate_core.secret import Secret
from quillgate_core.storage.provider_credential_store import PostgresProviderCredentialStore

from .test_provider_credentials import cli

KEY = "sk-PLANTED-secret-of-a-workspace-0001"
BAD_KEY = "PLANTED secret that is refused 0002"
HOUSE_KEY = "sk-PLANTED-house-key-0003"
MASTER = b"PLANTED-master-key-of-32-bytes-4"
SECRETS = {"key": KEY[:-4].encode(), "bad key": BAD_KEY.encode(), "house key": HOUSE_KEY.encode(), "master": MASTER}
CATALOGUE = """
[providers.scripted]
base_url = "{base_url}"
api_key_env = "PLANTED_HOUSE_KEY"
"""


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS)
def test_the_canary_would_be_found(secret: bytes) -> None:
    """Each secret is found as text, in hexadecimal and in base64 at any place, so that finding none means something."""
    canary = Canary({"it": secret})
    for shift in range(6):
        around = b"y" * shift + secret + b"zzzz"
        for hidden in (around.decode(), around.hex(), around.hex().upper(), base64.b64encode(around).decode()):
            assert canary.found_in(["nothing", f"<{hidden}>"]) == {"it"}
    assert canary.found_in(["PLANTED", secret.decode()[:-6]]) == set()


async def _hear(canary: Canary, call: Awaitable[Any]) -> None:
    """Notes an answer or all that a failed call says."""
    try:
        canary.hear(await call)
    except grpc.aio.AioRpcError as error:
        canary.hear(error, error.details(), error.debug_error_string(), *(error.trailing_metadata() or ()))


async def _use_everything(service: RunningService, canary: Canary) -> str:
    """Uses the RPCs and the CLI, well and badly, and returns the workspace whose key is left."""
    tenant = await service.tenant(scopes=["workspace.admin"])
    async with grpc.aio.insecure_channel(service.grpc_address) as channel:
        stub: Any = ProviderCredentialServiceStub(channel)  # type: ignore[no-untyped-call]
        call = partial(_hear, canary)
        metadata = service.metadata(tenant.key)
        for members in (
            {"provider": "scripted", "secret": KEY},
            {"provider": "scripted", "secret": BAD_KEY},
            {"provider": KEY, "secret": KEY},
            {"provider": "scripted", "secret": KEY, "base_url": f"https://{KEY}@x.example/"},
            {"provider": "scripted", "secret": KEY, "workspace_id": "ws_nobody"},
        ):
            await call(stub.SetProviderCredential(pb.SetProviderCredentialRequest(**members), metadata=metadata))
        await call(stub.ListProviderCredentials(pb.ListProviderCredentialsRequest(), metadata=metadata))
        await call(
            stub.TestProviderCredential(pb.TestProviderCredentialRequest(provider="scripted"), metadata=metadata)
        )
        await call(stub.TestProviderCredential(pb.TestProviderCredentialRequest(provider=KEY), metadata=metadata))
        await call(stub.DeleteProviderCredential(pb.DeleteProviderCredentialRequest(provider=KEY), metadata=metadata))
    for arguments, stdin in (
        (["set", "scripted"], KEY),
        (["set", "scripted"], BAD_KEY),
        (["set", "scripted", "--json"], KEY),
        (["set", "unknown"], KEY),
        (["set", "scripted", "--base-url", "http://x.example"], KEY),
        (["list"], ""),
        (["list", "--json"], ""),
        (["test", "scripted"], ""),
        (["rewrap", "--workspace"], ""),
    ):
        done = await cli(service, *arguments, stdin=stdin, key=tenant.key)
        canary.hear(done.out, done.err)
    done = await cli(service, "rewrap")
    canary.hear(done.out, done.err)
    return tenant.workspace_id


async def test_no_secret_of_the_service_is_anywhere(
    database_url: str, engine: Engine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """After good and bad use of every RPC and command, dump, logs at DEBUG, errors, `repr`s and output hold none."""
    canary = Canary(SECRETS)
    settings = {"QUILLGATE_MASTER_KEY": base64.b64encode(MASTER).decode(), "PLANTED_HOUSE_KEY": HOUSE_KEY}
    with caplog.at_level(logging.DEBUG):
        async with start_service(database_url, tmp_path, catalogue_text=CATALOGUE, **settings) as service:
            workspace_id = await _use_everything(service, canary)
            credentials = service.core.provider_credentials
            canary.hear(service.core._config, credentials, credentials.of(workspace_id), credentials._master_keys)
            canary.hear(credentials.of(workspace_id).keys["scripted"].open())
            canary.hear(PostgresProviderCredentialStore(engine).every())
    dumped = dump(engine)
    assert "0001" in dumped and "cred_" in dumped and workspace_id in dumped
    assert canary.found_in([dumped]) == set()
    assert caplog.records
    assert canary.found_in([caplog.text]) == set()
    assert len(canary.heard) > 50
    assert canary.found_in(canary.heard) == set()


ECHOES = [
    json_answer(401, {"error": {"message": f"Incorrect API key provided: {KEY}", "code": "invalid_api_key"}}),
    json_answer(403, {"error": KEY}),
    json_answer(400, {"error": {"message": f"bad {KEY}", "code": KEY, "param": KEY, "type": "invalid_request_error"}}),
    json_answer(404, {"detail": f"no route for {KEY}"}),
    json_answer(429, {"error": {"message": KEY}}, {"retry-after": "1"}),
    json_answer(500, {"error": {"message": KEY}}),
    bytes_answer(f"<html>{KEY}</html>".encode(), status=502, headers={"content-type": "text/html"}),
    bytes_answer(f"Bearer {KEY}".encode(), status=400, headers={"content-type": "text/plain"}),
    json_answer(302, {}, {"location": f"https://evil.example/?{KEY}"}),
    json_answer(200, {"data": [], "note": KEY}),
]


async def test_no_provider_makes_us_tell_a_key(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    """A provider that repeats the key in its refusal, whatever the form, finds no way into what a test says or logs."""
    canary = Canary(SECRETS)
    site = open_site(engine)
    pool = HttpPool()

    async def blocking(call: Any) -> Any:
        return await asyncio.to_thread(call)

    with caplog.at_level(logging.DEBUG):
        async with ScriptedUpstream() as upstream:
            upstream.script(*ECHOES)
            config = ProviderConfig("scripted", upstream.base_url, Secret(HOUSE_KEY), is_trusted=True)
            credentials = ProviderCredentials(
                PostgresProviderCredentialStore(engine),
                MasterKeys([OLD]),
                {"scripted": config},
                open_account=lambda own: listing_account(own, pool),
                blocking=blocking,
                url_denial=url_denial,
            )
            kept = await blocking(lambda: credentials.set(site.admin, provider="scripted", secret=Secret(KEY)))
            results = [await credentials.test(site.admin, provider="scripted") for _ in ECHOES]
            assert [request.headers["authorization"] for request in upstream.requests] == [f"Bearer {KEY}"] * len(
                ECHOES
            )
            site.run("UPDATE provider_credentials SET base_url = 'https://evil.example'")
            results.append(await credentials.test(site.admin, provider="scripted"))
            assert len(upstream.requests) == len(ECHOES)
        results.append(await _with_shared_state(credentials, site, canary))
        await pool.close()
    assert [result.ok for result in results] == [False] * (len(ECHOES) - 1) + [True, False, False]
    canary.hear(kept, *results)
    assert canary.found_in([*canary.heard, caplog.text, dump(engine)]) == set()


async def _with_shared_state(credentials: ProviderCredentials, site: Any, canary: Canary) -> Any:
    """Makes routing meet the tampered row too, and returns what the test says when the provider is away."""
    site.run("UPDATE shared_revisions SET revision = revision + 1")
    await asyncio.to_thread(credentials.refresh)
    for key in credentials.of(site.admin.workspace_id).keys.values():
        try:
            key.open()
        except QuillgateError as error:
            canary.hear(error, error.message, error.metadata, error.__cause__, error.__context__)
            canary.hear(sys.exc_info())
    site.run("UPDATE provider_credentials SET base_url = ''")
    return await credentials.test(site.admin, provider="scripted")


def test_a_dump_sees_bytes_and_texts(engine: Engine) -> None:
    """What is kept in the clear, as text or bytes, would be found in the dump."""
    canary = Canary({"it": b"PLANTED-in-a-row"})
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO workspaces (workspace_id, name) VALUES ('ws_a', 'x')"))
        connection.execute(
            text(
                "INSERT INTO provider_credentials VALUES"
                " ('cred_1', 'ws_a', 'p', '', '', false, 'PLANTED-in-a-row'::bytea, '', '')"
            )
        )
    assert canary.found_in([dump(engine)]) == {"it"}
