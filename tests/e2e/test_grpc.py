"""The gRPC side as internal teams meet it: a real channel, a key in the metadata, errors in ErrorInfo."""

import asyncio
from typing import Any

import grpc
import pytest
from fakes.scripted_upstream import DEFAULT_TEXT, Step, chat_chunk, sse_answer
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from service import MODEL, RunningService

from quillgate.v1 import (
    chat_completion_pb2,
    completion_service_pb2,
    completion_service_pb2_grpc,
    metering_service_pb2,
    metering_service_pb2_grpc,
    model_service_pb2,
    model_service_pb2_grpc,
)
from quillgate_codec import error_info


def question(model: str = MODEL) -> chat_completion_pb2.ChatCompletionRequest:
    """A small question."""
    message = chat_completion_pb2.ChatMessage(role="user", content=chat_completion_pb2.ChatContent(text="Hello!"))
    return chat_completion_pb2.ChatCompletionRequest(model=model, messages=[message])


async def test_unary_and_streamed(running_service: RunningService) -> None:
    """Typed answers come with a receipt; a stream's first message has the reservation and its last the receipt."""
    tenant = await running_service.tenant(allowance=10)
    metadata = running_service.metadata(tenant.key)
    async with grpc.aio.insecure_channel(running_service.grpc_address) as channel:
        stub: Any = completion_service_pb2_grpc.CompletionServiceStub(channel)
        answer = await stub.CreateChatCompletion(
            completion_service_pb2.CreateChatCompletionRequest(completion=question()), metadata=metadata
        )
        assert answer.completion.choices[0].message.content.text == DEFAULT_TEXT
        assert (answer.receipt.counted_messages, answer.receipt.remaining_messages) == (1, 9)
        assert answer.receipt.usage_source == metering_service_pb2.USAGE_SOURCE_PROVIDER

        call = stub.StreamChatCompletion(
            completion_service_pb2.StreamChatCompletionRequest(completion=question()), metadata=metadata
        )
        messages = [message async for message in call]
        text = "".join(chunk.choices[0].delta.content for message in messages for chunk in message.chunks)
        assert text == DEFAULT_TEXT
        assert [message.HasField("reservation") for message in messages] == [True] + [False] * (len(messages) - 1)
        assert [message.HasField("receipt") for message in messages] == [False] * (len(messages) - 1) + [True]
        assert messages[-1].receipt.remaining_messages == 8


async def test_error_after_messages_has_its_reason(running_service: RunningService) -> None:
    """An error after streamed messages carries ErrorInfo with reason, domain and metadata."""
    running_service.upstream.script(sse_answer(chat_chunk({"role": "assistant", "content": "Hel"}), Step.CLOSE))
    metadata = running_service.metadata(running_service.developer_key)
    async with grpc.aio.insecure_channel(running_service.grpc_address) as channel:
        stub: Any = completion_service_pb2_grpc.CompletionServiceStub(channel)
        call = stub.StreamChatCompletion(
            completion_service_pb2.StreamChatCompletionRequest(completion=question()), metadata=metadata
        )
        received = []
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for message in call:
                received.append(message)  # noqa: PERF401 - what came before the error counts
        info = error_info(caught.value)
    assert len(received) == 1
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert info is not None
    assert (info.reason, info.domain, dict(info.metadata)) == (
        "PROVIDER_UNAVAILABLE",
        "quillgate",
        {"provider": "scripted"},
    )


async def test_cancelling_a_stream_closes_the_provider(running_service: RunningService) -> None:
    """A gRPC caller that cancels closes the provider's connection within 1 s, and its request is settled."""
    tenant = await running_service.tenant()
    running_service.upstream.script(sse_answer(chat_chunk({"role": "assistant", "content": "Hel"}), Step.HANG))
    async with grpc.aio.insecure_channel(running_service.grpc_address) as channel:
        stub: Any = completion_service_pb2_grpc.CompletionServiceStub(channel)
        call = stub.StreamChatCompletion(
            completion_service_pb2.StreamChatCompletionRequest(completion=question()),
            metadata=running_service.metadata(tenant.key),
        )
        await call.read()
        call.cancel()
        async with asyncio.timeout(1.0):
            await running_service.upstream.requests[0].disconnected.wait()
    assert (await running_service.settled(tenant))[0] == 1


async def test_health_needs_no_key(running_service: RunningService) -> None:
    """Health answers for the whole and for each service, without a key."""
    async with grpc.aio.insecure_channel(running_service.grpc_address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        for service in ("", "quillgate.v1.CompletionService", "quillgate.v1.MeteringService"):
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_reflection_lists_the_services(running_service: RunningService) -> None:
    """Reflection, with a key, names every service and gives its descriptors, as grpcurl reads them."""

    class WithKey(grpc.StreamStreamClientInterceptor):  # type: ignore[type-arg]
        def intercept_stream_stream(self, continuation: Any, details: Any, requests: Any) -> Any:
            return continuation(details._replace(metadata=running_service.metadata()), requests)

    def listed() -> tuple[list[str], list[str]]:
        with grpc.insecure_channel(running_service.grpc_address) as plain:
            channel = grpc.intercept_channel(plain, WithKey())
            database = ProtoReflectionDescriptorDatabase(channel)
            file = database.FindFileContainingSymbol("quillgate.v1.KeyService")
            return list(database.get_services()), [method.name for method in file.service[0].method]

    services, methods = await asyncio.to_thread(listed)
    assert {
        "grpc.health.v1.Health",
        "quillgate.v1.CompletionService",
        "quillgate.v1.KeyService",
        "quillgate.v1.MeteringService",
        "quillgate.v1.ModelService",
        "quillgate.v1.WorkspaceService",
    } <= set(services)
    assert "RotateKey" in methods


async def test_no_call_without_a_key(running_service: RunningService) -> None:
    """A call without a key is UNAUTHENTICATED, with a reason."""
    async with grpc.aio.insecure_channel(running_service.grpc_address) as channel:
        stub: Any = model_service_pb2_grpc.ModelServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.ListModels(model_service_pb2.ListModelsRequest())
    info = error_info(caught.value)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert info is not None and info.reason == "KEY_INVALID"


async def test_an_internal_service_shares_the_allowance(running_service: RunningService) -> None:
    """Messages that an internal service meters and those of REST clients count on the same day row."""
    tenant = await running_service.tenant(allowance=3)
    metadata = running_service.metadata(tenant.key)
    async with grpc.aio.insecure_channel(running_service.grpc_address) as channel:
        metering: Any = metering_service_pb2_grpc.MeteringServiceStub(channel)
        most = metering_service_pb2.TokenUsage(prompt_tokens=20_000, completion_tokens=10_000)
        used = metering_service_pb2.TokenUsage(prompt_tokens=10, completion_tokens=5)
        held = await metering.Reserve(
            metering_service_pb2.ReserveRequest(request_id="chat-1", max_usage=most), metadata=metadata
        )
        assert (held.reservation.held_messages, held.reservation.remaining_messages) == (2, 1)
        settled = await metering.Settle(
            metering_service_pb2.SettleRequest(request_id="chat-1", usage=used), metadata=metadata
        )
        assert (settled.receipt.counted_messages, settled.receipt.remaining_messages) == (1, 2)

        completions: Any = completion_service_pb2_grpc.CompletionServiceStub(channel)
        answer = await completions.CreateChatCompletion(
            completion_service_pb2.CreateChatCompletionRequest(completion=question()), metadata=metadata
        )
        assert answer.receipt.remaining_messages == 1
        days = await metering.ListDailyMessageCount(
            metering_service_pb2.ListDailyMessageCountRequest(), metadata=metadata
        )
    assert [(day.message_count, day.input_tokens, day.output_tokens, day.request_count) for day in days.days] == [
        (2, 20, 10, 2)
    ]
