"""One `Idempotency-Key`: at most one dispatch and one charge, on every endpoint that meters, in both shapes."""

import asyncio
from collections.abc import Mapping
from typing import Any

import grpc
import pytest
from aiohttp import ClientSession
from endpoint_probes import PROBES, Probe
from fakes.scripted_upstream import json_answer
from service import MODEL, RunningService, Tenant

from quillgate.v1 import completion_service_pb2 as pb
from quillgate.v1.completion_service_pb2_grpc import CompletionServiceStub
from quillgate_codec import chat_request, error_info

BODY = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}


async def ask(
    service: RunningService, tenant: Tenant, key: str, path: str = "/chat/completions", **changes: Any
) -> tuple[int, Any, Mapping[str, str]]:
    """Asks under an idempotency key; returns the status, the error's code or None, and the headers."""
    headers = {"authorization": f"Bearer {tenant.key}", "idempotency-key": key}
    async with (
        ClientSession() as http,
        http.post(service.base_url + path, json={**BODY, **changes}, headers=headers) as answer,
    ):
        await answer.read()
        error = (await answer.json())["error"] if answer.status >= 400 else None
        return answer.status, error and error["code"], answer.headers


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.path)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_later_duplicate_is_refused(service: RunningService, probe: Probe, stream: bool) -> None:
    """A request that was answered is not sent again on any endpoint, and the client is told not to retry."""
    tenant = await service.tenant()
    service.upstream.script(*probe.answers(stream=stream))
    headers = {"authorization": f"Bearer {tenant.key}", "idempotency-key": "k"}
    async with ClientSession(headers=headers) as http:
        async with http.post(service.base_url + probe.path, **probe.payload(stream=stream)) as answer:
            await answer.read()
            assert answer.status == 200
        for changes, expected in [({}, (409, "already_completed")), ({"user": "b"}, (422, "idempotency_mismatch"))]:
            payload = probe.payload(stream=stream, **changes)
            async with http.post(service.base_url + probe.path, **payload) as answer:
                assert (answer.status, (await answer.json())["error"]["code"]) == expected
                assert answer.headers["x-should-retry"] == "false"
    assert len(service.upstream.requests) == 1
    day = await service.settled(tenant)
    assert (day[0], day[5]) == (1, 1)


async def test_another_upload_is_refused(service: RunningService) -> None:
    """The sound of a transcription belongs to what was asked, however the network cut it."""
    tenant = await service.tenant()
    (probe,) = (probe for probe in PROBES if probe.is_form)
    service.upstream.script(*probe.answers(stream=False))
    headers = {"authorization": f"Bearer {tenant.key}", "idempotency-key": "k"}
    async with ClientSession(headers=headers) as http:
        for silence_s, expected in [(3.0, None), (3.0, "already_completed"), (3.5, "idempotency_mismatch")]:
            payload = probe.payload(silence_s=silence_s)
            async with http.post(service.base_url + probe.path, **payload) as answer:
                body = await answer.json()
                assert body.get("error", {}).get("code") == expected
    assert len(service.upstream.requests) == 1


async def test_another_body_is_refused(service: RunningService) -> None:
    """The same key for something else is 422, whether or not the first one has ended."""
    tenant = await service.tenant()
    assert (await ask(service, tenant, "k"))[0] == 200
    status, code, headers = await ask(service, tenant, "k", temperature=0.5)
    assert (status, code, headers["x-should-retry"]) == (422, "idempotency_mismatch", "false")
    assert (await ask(service, tenant, "k", stream=True))[:2] == (422, "idempotency_mismatch")
    assert len(service.upstream.requests) == 1


async def test_keys_are_the_workspaces_own(service: RunningService) -> None:
    """Another workspace and another key are not held up."""
    tenant, other = await service.tenant(), await service.tenant()
    assert (await ask(service, tenant, "k"))[0] == 200
    assert (await ask(service, other, "k"))[0] == 200
    assert (await ask(service, tenant, "l"))[0] == 200


async def test_concurrent_duplicates(service: RunningService) -> None:
    """Of ten that come at once, one is served and charged."""
    tenant = await service.tenant()
    outcomes = await asyncio.gather(*(ask(service, tenant, "k") for _ in range(10)))
    statuses = sorted(status for status, _, _ in outcomes)
    assert statuses == [200] + [409] * 9
    assert {code for _, code, _ in outcomes} <= {None, "duplicate_in_progress", "already_completed"}
    assert len(service.upstream.requests) == 1
    assert (await service.settled(tenant))[0] == 1


async def test_what_was_not_charged_may_be_repeated(service: RunningService) -> None:
    """After a failure that cost nothing the same key is served: that is what a retry is for."""
    tenant = await service.tenant()
    service.upstream.script(json_answer(503, {"error": {"message": "down"}}))
    assert (await ask(service, tenant, "k"))[0] == 502
    assert (await ask(service, tenant, "k"))[0] == 200


@pytest.mark.parametrize("key", ["", "a b", "é", "x" * 256])
async def test_unusable_keys(service: RunningService, key: str) -> None:
    """A key that is empty, too long or not visible ASCII is a bad request, and nothing is sent."""
    status, code, _ = await ask(service, await service.tenant(), key)
    assert (status, code) == (400, "invalid_value")
    assert service.upstream.requests == []


async def test_longest_key(service: RunningService) -> None:
    """255 characters are a key."""
    assert (await ask(service, await service.tenant(), "x" * 255))[0] == 200


async def test_grpc_metadata(service: RunningService) -> None:
    """Callers of the RPC say it in their metadata and hear the same causes."""
    tenant = await service.tenant()
    metadata = (*service.metadata(tenant.key), ("idempotency-key", "k"))
    request = pb.CreateChatCompletionRequest(completion=chat_request.from_value(BODY))
    async with grpc.aio.insecure_channel(service.grpc_address) as channel:
        stub: Any = CompletionServiceStub(channel)
        await stub.CreateChatCompletion(request, metadata=metadata)
        for asked, reason, code in [
            (request, "ALREADY_COMPLETED", grpc.StatusCode.ALREADY_EXISTS),
            (pb.CreateChatCompletionRequest(), "INVALID_REQUEST", grpc.StatusCode.INVALID_ARGUMENT),
        ]:
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await stub.CreateChatCompletion(asked, metadata=metadata)
            info = error_info(raised.value)
            assert info is not None
            assert (info.reason, raised.value.code()) == (reason, code)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.CreateChatCompletion(request, metadata=(*service.metadata(tenant.key), ("idempotency-key", "")))
        assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
