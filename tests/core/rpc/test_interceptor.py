"""The gate: who gets through, under which id, how many at once, and what happens to a key that changed meanwhile."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from core.rpc.refusal import Refusal, refusal_of
from fakes.key_ring import FakeKeyRing
from fakes.rpc_site import Metadata, RpcSite, answer, number, open_channel, open_site
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from quillgate.v1 import (
    catalogue_service_pb2,
    catalogue_service_pb2_grpc,
    completion_service_pb2,
    completion_service_pb2_grpc,
    key_service_pb2,
    key_service_pb2_grpc,
    ledger_service_pb2,
    ledger_service_pb2_grpc,
    metering_service_pb2,
    metering_service_pb2_grpc,
    model_service_pb2,
    model_service_pb2_grpc,
    provider_credential_service_pb2,
    provider_credential_service_pb2_grpc,
    response_service_pb2,
    response_service_pb2_grpc,
    workspace_service_pb2,
    workspace_service_pb2_grpc,
)
from quillgate_core import app
from quillgate_core.errors import ModelNotFound, QuillgateError
from quillgate_core.reservation import KeyStale
from quillgate_core.rpc.call import current_call, current_session
from quillgate_core.rpc.capacity import Capacity
from quillgate_core.rpc.interceptor import PUBLIC_METHODS, CallInterceptor

BOUND_S = 5.0
KEY_INVALID = Refusal(grpc.StatusCode.UNAUTHENTICATED, "KEY_INVALID", {})
OVERLOADED = Refusal(grpc.StatusCode.UNAVAILABLE, "OVERLOADED", {"retry_after_s": "1"})

SERVICES: list[tuple[ServiceDescriptor, Any, Any]] = [
    (
        catalogue_service_pb2.DESCRIPTOR.services_by_name["CatalogueService"],
        catalogue_service_pb2_grpc.CatalogueServiceServicer,
        catalogue_service_pb2_grpc.add_CatalogueServiceServicer_to_server,
    ),
    (
        completion_service_pb2.DESCRIPTOR.services_by_name["CompletionService"],
        completion_service_pb2_grpc.CompletionServiceServicer,
        completion_service_pb2_grpc.add_CompletionServiceServicer_to_server,
    ),
    (
        response_service_pb2.DESCRIPTOR.services_by_name["ResponseService"],
        response_service_pb2_grpc.ResponseServiceServicer,
        response_service_pb2_grpc.add_ResponseServiceServicer_to_server,
    ),
    (
        key_service_pb2.DESCRIPTOR.services_by_name["KeyService"],
        key_service_pb2_grpc.KeyServiceServicer,
        key_service_pb2_grpc.add_KeyServiceServicer_to_server,
    ),
    (
        ledger_service_pb2.DESCRIPTOR.services_by_name["LedgerService"],
        ledger_service_pb2_grpc.LedgerServiceServicer,
        ledger_service_pb2_grpc.add_LedgerServiceServicer_to_server,
    ),
    (
        metering_service_pb2.DESCRIPTOR.services_by_name["MeteringService"],
        metering_service_pb2_grpc.MeteringServiceServicer,
        metering_service_pb2_grpc.add_MeteringServiceServicer_to_server,
    ),
    (
        model_service_pb2.DESCRIPTOR.services_by_name["ModelService"],
        model_service_pb2_grpc.ModelServiceServicer,
        model_service_pb2_grpc.add_ModelServiceServicer_to_server,
    ),
    (
        provider_credential_service_pb2.DESCRIPTOR.services_by_name["ProviderCredentialService"],
        provider_credential_service_pb2_grpc.ProviderCredentialServiceServicer,
        provider_credential_service_pb2_grpc.add_ProviderCredentialServiceServicer_to_server,
    ),
    (
        workspace_service_pb2.DESCRIPTOR.services_by_name["WorkspaceService"],
        workspace_service_pb2_grpc.WorkspaceServiceServicer,
        workspace_service_pb2_grpc.add_WorkspaceServiceServicer_to_server,
    ),
]


async def _answer_with_id(request: Any) -> Any:
    return answer(current_call().request_id)


@pytest.mark.parametrize(
    "metadata",
    [
        (),
        (("authorization", ""),),
        (("authorization", "Bearer"),),
        (("authorization", "Bearer  "),),
        (("authorization", "Bearer qg_live_nonsense"),),
        (("authorization", "Bearer " + "x" * 300),),
        (("x-api-key", "qg_live_nonsense"),),
    ],
)
async def test_without_a_good_key_nothing_is_served(rpc: RpcSite, metadata: Metadata) -> None:
    """No key, no secret and junk are all refused in the same way, without a query."""
    assert await refusal_of(rpc.create(metadata=metadata)) == KEY_INVALID
    assert await refusal_of(rpc.stream(metadata=metadata).read()) == KEY_INVALID
    assert await refusal_of(rpc.get_key(metadata=metadata)) == KEY_INVALID
    assert rpc.ring.finds == 0


@pytest.mark.parametrize("scheme", ["Basic", "Digest", "qg_live_x"])
async def test_other_schemes_are_refused(rpc: RpcSite, scheme: str) -> None:
    """Only Bearer is understood, even when the secret behind another scheme is a good one."""
    assert await refusal_of(rpc.create(metadata=(("authorization", f"{scheme} {rpc.secret}"),))) == KEY_INVALID


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_scheme_is_case_insensitive(rpc: RpcSite, scheme: str) -> None:
    """HTTP's authentication schemes have no case."""
    await rpc.create(metadata=(("authorization", f"{scheme} {rpc.secret}"),))


async def test_two_different_keys_are_refused(rpc: RpcSite) -> None:
    """Which of two keys pays would be a guess; the same key twice is no contradiction."""
    other = rpc.ring.add()[1]
    twice = (*rpc.metadata, *rpc.metadata)
    both = (*rpc.metadata, ("authorization", f"Bearer {other}"))
    await rpc.create(metadata=twice)
    expected = Refusal(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", {"param": "authorization", "code": ""})
    assert await refusal_of(rpc.create(metadata=both)) == expected


async def test_request_id_is_the_callers(rpc: RpcSite) -> None:
    """A given request id is used as it is; without one every call gets its own."""
    rpc.completions.create = _answer_with_id
    longest = "~" * 128
    given = await rpc.create(metadata=(*rpc.metadata, ("x-request-id", longest)))
    made = {(await rpc.create()).receipt.request_id for _ in range(2)}
    assert given.receipt.request_id == longest
    assert len(made) == 2
    assert all(request_id.startswith("req_") for request_id in made)


@pytest.mark.parametrize("request_id", ["", "with space", "x" * 129])
async def test_bad_request_id_is_refused(rpc: RpcSite, request_id: str) -> None:
    """A request id that cannot be stored is refused before anything is asked of the key store."""
    expected = Refusal(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", {"param": "x-request-id", "code": ""})
    assert await refusal_of(rpc.create(metadata=(*rpc.metadata, ("x-request-id", request_id)))) == expected
    assert rpc.ring.finds == 0


async def test_only_completions_trust_a_remembered_key(rpc: RpcSite) -> None:
    """Completions reserve, which checks the key again, so they may use the cache; everything else asks afresh."""
    await rpc.create()
    assert rpc.ring.finds == 1
    await rpc.create()
    await rpc.stream().read()
    assert rpc.ring.finds == 1
    await rpc.get_key()
    await rpc.get_key()
    assert rpc.ring.finds == 3


async def test_stale_key_is_authenticated_afresh_once(rpc: RpcSite) -> None:
    """When the reservation finds that the key has changed, the call is served again with the key as it is now."""
    revisions: list[int] = []

    async def create(request: Any) -> Any:
        revisions.append(current_call().principal.key_revision)
        if revisions[-1] < 2:
            raise KeyStale
        return await _answer_with_id(request)

    await rpc.create()
    rpc.ring.change(rpc.secret)
    rpc.completions.create = create
    metadata = (*rpc.metadata, ("x-request-id", "r"))
    assert (await rpc.create(metadata=metadata)).receipt.request_id == "r"
    assert revisions == [1, 2]


async def test_stale_key_in_a_stream_is_authenticated_afresh(rpc: RpcSite) -> None:
    """A stream starts over in the same way, and its caller sees nothing of it."""
    revisions: list[int] = []

    async def stream(request: Any) -> AsyncIterator[Any]:
        revisions.append(current_call().principal.key_revision)
        if revisions[-1] < 2:
            raise KeyStale
        yield number(1)

    await rpc.create()
    rpc.ring.change(rpc.secret)
    rpc.completions.stream = stream
    call = rpc.stream()
    assert [response.receipt.counted_messages async for response in call] == [1]
    assert revisions == [1, 2]


@pytest.mark.parametrize("method", ["create", "stream"])
async def test_key_that_is_stale_again_is_told_to_retry(rpc: RpcSite, method: str) -> None:
    """A key that changes faster than it is read is no fault of ours; the caller may come back."""
    served: list[int] = []

    async def create(request: Any) -> Any:
        served.append(1)
        raise KeyStale

    async def stream(request: Any) -> AsyncIterator[Any]:
        yield await create(request)

    rpc.completions.create, rpc.completions.stream = create, stream
    assert await refusal_of(rpc.create() if method == "create" else rpc.stream().read()) == OVERLOADED
    assert served == [1, 1]


async def test_error_without_a_reason_of_its_own_is_internal(rpc: RpcSite, caplog: pytest.LogCaptureFixture) -> None:
    """What the ledger could not record is a fault of ours: logged, and told with the request id alone."""

    async def create(request: Any) -> Any:
        raise QuillgateError("The step could not be recorded.")

    rpc.completions.create = create
    refusal = await refusal_of(rpc.create(metadata=(*rpc.metadata, ("x-request-id", "r"))))
    assert refusal == Refusal(grpc.StatusCode.INTERNAL, "INTERNAL", {"request_id": "r"})
    assert "could not be recorded" in caplog.text


@pytest.mark.parametrize("transport", ["in process", "socket"])
@pytest.mark.parametrize("end", ["success", "error", "cancel", "stream success", "stream error", "stream cancel"])
async def test_place_is_given_back_at_every_end(transport: Any, end: str) -> None:
    """With one place, a second call is refused after its wait; when the first has ended in any way, there is room."""
    async with open_site(transport, places=1) as rpc:
        go_on = asyncio.Event()

        async def create(request: Any) -> Any:
            rpc.completions.begun.set()
            try:
                await go_on.wait()
                if end.endswith("error"):
                    raise ModelNotFound("m")
                return answer()
            finally:
                rpc.completions.ended.set()

        async def stream(request: Any) -> AsyncIterator[Any]:
            await create(request)
            yield number(0)

        rpc.completions.create, rpc.completions.stream = create, stream
        first = rpc.stream() if end.startswith("stream") else rpc.create()

        async def take() -> Any:
            return [message async for message in first] if end.startswith("stream") else await first

        holder = asyncio.create_task(take())
        async with asyncio.timeout(BOUND_S):
            await rpc.completions.begun.wait()
            assert await refusal_of(rpc.create()) == OVERLOADED
            assert await refusal_of(rpc.stream().read()) == OVERLOADED
            await rpc.get_key()  # admin calls have places of their own
            if end.endswith("cancel"):
                first.cancel()
            go_on.set()
            await asyncio.gather(holder, return_exceptions=True)
            await rpc.completions.ended.wait()
            rpc.completions.create = _answer_with_id
            await rpc.create()


async def test_admin_calls_have_places_of_their_own() -> None:
    """Neither can completions keep an operator out, nor admin calls a completion."""
    loop = asyncio.get_running_loop()
    async with open_site("in process", places=1) as rpc:
        begun = asyncio.Event()
        go_on = asyncio.Event()

        def get(key_id: str) -> str:
            loop.call_soon_threadsafe(begun.set)
            asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result(BOUND_S)
            return key_id

        rpc.keys.get = get
        holder = asyncio.ensure_future(rpc.get_key())
        await begun.wait()
        assert await refusal_of(rpc.get_key()) == OVERLOADED
        await rpc.create()
        go_on.set()
        await holder


async def test_waiting_call_takes_a_place_that_becomes_free() -> None:
    """A full house is not refused at once: whoever leaves within the wait makes room."""
    async with open_site("in process", places=1, wait_s=BOUND_S) as rpc:
        go_on = asyncio.Event()

        async def create(request: Any) -> Any:
            await go_on.wait()
            return answer()

        rpc.completions.create = create
        calls = [asyncio.ensure_future(rpc.create()) for _ in range(3)]
        await asyncio.sleep(0.05)
        assert not any(call.done() for call in calls)
        go_on.set()
        await asyncio.gather(*calls)


async def test_cancelled_wait_for_a_place_takes_none() -> None:
    """Who goes away while waiting leaves the place to others."""
    capacity = Capacity(1, wait_s=BOUND_S)

    async def hold(event: asyncio.Event) -> None:
        async with capacity:
            await event.wait()

    go_on = asyncio.Event()
    holder = asyncio.create_task(hold(go_on))
    await asyncio.sleep(0)
    waiters = [asyncio.create_task(hold(go_on)) for _ in range(2)]
    await asyncio.sleep(0)
    waiters[0].cancel()
    go_on.set()
    await asyncio.gather(holder, *waiters, return_exceptions=True)
    async with asyncio.timeout(BOUND_S), capacity:
        pass


def test_public_methods_are_those_of_health() -> None:
    """The explicit list of what needs no key is the health service and nothing else."""
    health = health_pb2.DESCRIPTOR.services_by_name["Health"]
    assert set(PUBLIC_METHODS) == {f"/{health.full_name}/{method.name}" for method in health.methods}


@pytest.mark.parametrize("transport", ["in process", "socket"])
async def test_every_other_method_needs_a_key(transport: Any) -> None:
    """Walked through the descriptors: without a key each method of each service is refused before it is looked at."""
    assert {service.full_name for service, _, _ in SERVICES} == set(app.SERVICES)
    ring = FakeKeyRing()
    capacity = Capacity(10, wait_s=1)
    interceptor = CallInterceptor(ring.keys, None, completions=capacity, admin=capacity)  # type: ignore[arg-type]

    def add(server: Any) -> None:
        for _, servicer, add_to_server in SERVICES:
            add_to_server(servicer(), server)

    async with open_channel(transport, interceptor, add) as channel:
        for service, _, _ in SERVICES:
            for method in service.methods:
                make = channel.unary_stream if method.server_streaming else channel.unary_unary
                call = make(f"/{service.full_name}/{method.name}", _serialize, bytes)(b"")
                assert await refusal_of(call.read() if method.server_streaming else call) == KEY_INVALID


async def test_health_is_public_and_reflection_is_not() -> None:
    """A probe needs no key; whoever wants to know the methods does."""
    ring = FakeKeyRing()
    secret = ring.add()[1]
    capacity = Capacity(10, wait_s=1)
    interceptor = CallInterceptor(ring.keys, None, completions=capacity, admin=capacity)  # type: ignore[arg-type]

    def add(server: Any) -> None:
        health_pb2_grpc.add_HealthServicer_to_server(HealthServicer(), server)
        reflection.enable_server_reflection((reflection.SERVICE_NAME,), server)

    async with open_channel("socket", interceptor, add) as channel:
        check = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert check.status == health_pb2.HealthCheckResponse.SERVING
        ask = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo
        question = [reflection_pb2.ServerReflectionRequest(list_services="")]
        assert await refusal_of(ask(iter(question)).read()) == KEY_INVALID
        listed = await ask(iter(question), metadata=(("authorization", f"Bearer {secret}"),)).read()
        assert [service.name for service in listed.list_services_response.service] == [reflection.SERVICE_NAME]


def _serialize(message: bytes) -> bytes:
    return message


UPSTREAM = "openrouter/google/gemini-2.5-flash"


async def test_who_answered_is_in_the_trailing_metadata(rpc: RpcSite) -> None:
    """Of a whole answer and of a stream, for callers that cannot change how they read messages."""

    async def create(request: Any) -> Any:
        made = answer()
        made.upstream = UPSTREAM
        return made

    async def stream(request: Any) -> AsyncIterator[Any]:
        first = number(0)
        first.upstream = UPSTREAM
        yield first
        yield number(1)

    rpc.completions.create, rpc.completions.stream = create, stream
    whole, streamed = rpc.create(), rpc.stream()
    await whole
    assert [message.receipt.counted_messages async for message in streamed] == [0, 1]
    for call in (whole, streamed):
        assert dict(await call.trailing_metadata())["x-quillgate-upstream"] == UPSTREAM


async def test_nobody_answered_is_not_said(rpc: RpcSite) -> None:
    """Calls that reach no provider, and those that fail, have no such metadata."""
    whole, key = rpc.create(), rpc.get_key("k")
    await whole
    await key
    for call in (whole, key):
        assert "x-quillgate-upstream" not in dict(await call.trailing_metadata())
    call = rpc.create(metadata=())
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert "x-quillgate-upstream" not in dict(caught.value.trailing_metadata())


async def test_session_is_part_of_the_call(rpc: RpcSite) -> None:
    """What the caller names its conversation; a name that cannot be one is refused."""

    async def create(request: Any) -> Any:
        return answer(current_session())

    rpc.completions.create = create
    assert (await rpc.create()).receipt.request_id == ""
    named = (*rpc.metadata, ("x-session-id", "chat-7"))
    assert (await rpc.create(metadata=named)).receipt.request_id == "chat-7"
    too_long = (*rpc.metadata, ("x-session-id", "x" * 257))
    refusal = await refusal_of(rpc.create(metadata=too_long))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
