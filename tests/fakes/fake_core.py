"""A core on a real gRPC server that does what a test scripts: answers, pauses, errors, and notes what it saw."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import grpc
import grpc.aio
from google.protobuf.any_pb2 import Any as AnyMessage
from grpc_health.v1 import health_pb2, health_pb2_grpc

from quillgate.v1 import completion_service_pb2_grpc, error_reason_pb2, model_service_pb2_grpc
from quillgate.v1.chat_completion_pb2 import ChatCompletionChunk
from quillgate.v1.completion_service_pb2 import (
    CreateChatCompletionRequest,
    CreateChatCompletionResponse,
    StreamChatCompletionRequest,
    StreamChatCompletionResponse,
)
from quillgate.v1.metering_service_pb2 import Receipt, Reservation
from quillgate.v1.model_service_pb2 import (
    GetModelRequest,
    GetModelResponse,
    ListModelsRequest,
    ListModelsResponse,
    Model,
)
from quillgate_codec import provider_chat_answer, provider_chat_chunk
from quillgate_codec.error_info import ERROR_INFO_TYPE, STATUS_DETAILS_KEY

MODEL = "google/gemini-2.5-flash"


@dataclass
class FakeFailure:
    """How a call is to fail; `reason` None sends no ErrorInfo."""

    code: grpc.StatusCode
    reason: str | None = None
    message: str = "It failed."
    metadata: dict[str, str] = field(default_factory=dict)
    domain: str = "quillgate"

    def trailers(self) -> tuple[tuple[str, bytes], ...]:
        if self.reason is None:
            return ()
        info = error_reason_pb2.ErrorInfo(reason=self.reason, domain=self.domain, metadata=self.metadata)
        detail = AnyMessage(type_url=ERROR_INFO_TYPE, value=info.SerializeToString())
        status = error_reason_pb2.ErrorStatus(code=self.code.value[0], message=self.message, details=[detail])
        return ((STATUS_DETAILS_KEY, status.SerializeToString()),)


#: What a scripted stream does, step by step: send a message, wait, or fail.
Step = StreamChatCompletionResponse | float | FakeFailure


@dataclass
class FakeScript:
    """What the core does next; tests assign the fields."""

    failure: FakeFailure | None = None
    answer: CreateChatCompletionResponse | None = None
    delay_s: float = 0.0
    steps: Sequence[Step] = ()
    hang: bool = False
    endless: StreamChatCompletionResponse | None = None


def chunk(content: str | None = None, *, finish: str | None = None) -> ChatCompletionChunk:
    """A chunk as a provider makes it."""
    delta = {} if content is None else {"content": content}
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return provider_chat_chunk.from_value(
        {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": MODEL, "choices": [choice]}
    )


def usage_chunk() -> ChatCompletionChunk:
    """The last chunk of a stream whose usage was asked for."""
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    return provider_chat_chunk.from_value(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": MODEL,
            "choices": [],
            "usage": usage,
        }
    )


def first(*chunks: ChatCompletionChunk, remaining: int | None = None) -> StreamChatCompletionResponse:
    """The first message of a stream."""
    return StreamChatCompletionResponse(chunks=chunks, reservation=Reservation(remaining_messages=remaining))


def more(*chunks: ChatCompletionChunk) -> StreamChatCompletionResponse:
    """A message in the middle of a stream."""
    return StreamChatCompletionResponse(chunks=chunks)


def last(*chunks: ChatCompletionChunk) -> StreamChatCompletionResponse:
    """The last message of a complete stream."""
    return StreamChatCompletionResponse(chunks=chunks, receipt=Receipt(counted_messages=1))


def hello_stream(*, remaining: int | None = None) -> list[Step]:
    """Says hello in two pieces."""
    return [first(chunk("Hel"), remaining=remaining), more(chunk("lo")), last(chunk(finish="stop"))]


def answer_of(
    content: str = "Hello", *, remaining: int | None = None, counted: int = 1
) -> CreateChatCompletionResponse:
    """A whole answer with its receipt."""
    completion = provider_chat_answer.from_value(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": MODEL,
            "choices": [{"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
            "x_vendor": {"kept": True},
        }
    )
    receipt = Receipt(counted_messages=counted, remaining_messages=remaining)
    return CreateChatCompletionResponse(completion=completion, receipt=receipt)


class FakeCore:
    """The services of the core, scripted. Use as an async context manager; `port` is where it listens."""

    def __init__(self) -> None:
        self.script = FakeScript()
        self.requests: list[Any] = []
        self.metadata: list[dict[str, str]] = []
        self.deadlines_s: list[float] = []
        self.started = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.serving = True
        self.not_serving_checks = 0
        self.port = 0
        self._server: grpc.aio.Server | None = None

    async def __aenter__(self) -> Self:
        server = self._server = grpc.aio.server(options=[("grpc.max_receive_message_length", 64 * 1024 * 1024)])
        completion_service_pb2_grpc.add_CompletionServiceServicer_to_server(FakeCompletions(self), server)
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(_Models(self), server)
        health_pb2_grpc.add_HealthServicer_to_server(_Health(self), server)
        self.port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        await self._server.stop(None)

    async def note(self, request: Any, context: Any) -> None:
        """Remembers the call, and fails it when the script says so."""
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        if hasattr(context, "time_remaining"):  # calls inside the process have no such thing
            self.deadlines_s.append(context.time_remaining())
        self.started.set()
        if self.script.failure is not None:
            await fail(context, self.script.failure)
        if self.script.hang:
            await self.hang()

    async def hang(self) -> None:
        """Waits until the caller cancels."""
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


async def fail(context: Any, failure: FakeFailure) -> None:
    """Ends the call as the failure says."""
    context.set_trailing_metadata(failure.trailers())
    await context.abort(failure.code, failure.message)


class FakeCompletions(completion_service_pb2_grpc.CompletionServiceServicer):
    """Answers as the script of its core says."""

    def __init__(self, core: FakeCore) -> None:
        self._core = core

    async def CreateChatCompletion(  # noqa: N802
        self, request: CreateChatCompletionRequest, context: Any
    ) -> CreateChatCompletionResponse:
        await self._core.note(request, context)
        await asyncio.sleep(self._core.script.delay_s)
        return self._core.script.answer or answer_of()

    async def StreamChatCompletion(  # noqa: N802
        self, request: StreamChatCompletionRequest, context: Any
    ) -> AsyncIterator[StreamChatCompletionResponse]:
        core = self._core
        await core.note(request, context)
        whole = False
        try:
            for step in core.script.steps:
                if isinstance(step, FakeFailure):
                    await fail(context, step)
                elif isinstance(step, float):
                    await asyncio.sleep(step)
                else:
                    yield step
            while core.script.endless is not None:
                yield core.script.endless
                await asyncio.sleep(0)
            whole = True
        finally:  # a cancellation that comes while a message is sent closes the generator instead
            if not whole:
                core.cancelled.set()

    async def CreateTextCompletion(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self._core.note(request, context)
        return self._core.script.answer

    async def StreamTextCompletion(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        async for message in self.StreamChatCompletion(request, context):
            yield message


class _Models(model_service_pb2_grpc.ModelServiceServicer):
    def __init__(self, core: FakeCore) -> None:
        self._core = core

    async def ListModels(self, request: ListModelsRequest, context: Any) -> ListModelsResponse:  # noqa: N802
        await self._core.note(request, context)
        answer = ListModelsResponse()
        answer.models.object = "list"
        answer.models.data.items.append(_model(MODEL))
        return answer

    async def GetModel(self, request: GetModelRequest, context: Any) -> GetModelResponse:  # noqa: N802
        await self._core.note(request, context)
        if request.id != MODEL:
            message = f"The model `{request.id}` does not exist or you do not have access to it."
            await fail(
                context,
                FakeFailure(grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND", message, {"model": request.id}),
            )
        return GetModelResponse(model=_model(request.id))


def _model(model_id: str) -> Model:
    return Model(id=model_id, object="model", created=1, owned_by="google")


class _Health(health_pb2_grpc.HealthServicer):
    def __init__(self, core: FakeCore) -> None:
        self._core = core

    async def Check(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: Any
    ) -> health_pb2.HealthCheckResponse:
        status = health_pb2.HealthCheckResponse
        if self._core.not_serving_checks:
            self._core.not_serving_checks -= 1
            return status(status=status.NOT_SERVING)
        return status(status=status.SERVING if self._core.serving else status.NOT_SERVING)
