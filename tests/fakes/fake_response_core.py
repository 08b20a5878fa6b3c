"""A scripted core that also answers the RPCs of responses, and what it may be scripted to say."""

from collections.abc import Sequence
from typing import Any, Self

import grpc
from fakes.fake_core import MODEL, FakeCompletions, FakeCore, FakeFailure, fail

from quillgate.v1 import completion_service_pb2_grpc, response_service_pb2_grpc
from quillgate.v1.completion_service_pb2 import (
    CreateResponseRequest,
    CreateResponseResponse,
    StreamResponseResponse,
)
from quillgate.v1.metering_service_pb2 import Receipt, Reservation
from quillgate.v1.response_pb2 import Response, ResponseEvent, ResponseItemPage
from quillgate.v1.response_service_pb2 import (
    DeleteResponseRequest,
    DeleteResponseResponse,
    GetResponseRequest,
    GetResponseResponse,
    ListResponseInputItemsRequest,
    ListResponseInputItemsResponse,
)
from quillgate_codec import provider_response, provider_response_event

RESPONSE_ID = "resp_1"


def response_of(status: str = "completed", text: str | None = "Hello") -> Response:
    """A response as the core makes it."""
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    output = [{"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "content": [part]}]
    return provider_response.from_value(
        {
            "id": RESPONSE_ID,
            "object": "response",
            "created_at": 1,
            "status": status,
            "model": MODEL,
            "output": [] if text is None else output,
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            "x_vendor": {"kept": True},
        }
    )


def event(kind: str, number: int, **members: Any) -> ResponseEvent:
    """An event as the core makes it."""
    return provider_response_event.from_value({"type": kind, "sequence_number": number, **members})


def created() -> ResponseEvent:
    """The first event."""
    made = ResponseEvent(type="response.created", sequence_number=0)
    made.response.CopyFrom(response_of("in_progress", text=None))
    return made


def opened(number: int) -> list[ResponseEvent]:
    """The two events before the first piece of text."""
    item = {"type": "message", "id": "msg_1", "status": "in_progress", "role": "assistant", "content": []}
    part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    return [
        event("response.output_item.added", number, output_index=0, item=item),
        event("response.content_part.added", number + 1, part=part, **place),
    ]


def delta(text: str, number: int) -> ResponseEvent:
    """A piece of text."""
    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0, "logprobs": []}
    return event("response.output_text.delta", number, delta=text, **place)


def ended(kind: str, number: int) -> ResponseEvent:
    """The last event, such as `completed`."""
    made = ResponseEvent(type=f"response.{kind}", sequence_number=number)
    made.response.CopyFrom(response_of(kind))
    return made


def first(*events: ResponseEvent, remaining: int | None = None, ignored: Sequence[str] = ()) -> StreamResponseResponse:
    """The first message of a stream."""
    return StreamResponseResponse(events=events, reservation=Reservation(remaining_messages=remaining), ignored=ignored)


def more(*events: ResponseEvent) -> StreamResponseResponse:
    """A message in the middle of a stream."""
    return StreamResponseResponse(events=events)


def last(*events: ResponseEvent) -> StreamResponseResponse:
    """The last message of a complete stream."""
    return StreamResponseResponse(events=events, receipt=Receipt(counted_messages=1))


def hello_events(*, remaining: int | None = None, ignored: Sequence[str] = ()) -> list[Any]:
    """Says hello in two pieces."""
    return [
        first(created(), remaining=remaining, ignored=ignored),
        more(*opened(1), delta("Hel", 3)),
        more(delta("lo", 4)),
        last(ended("completed", 5)),
    ]


class FakeResponseCore(FakeCore):
    """A FakeCore with responses; `response` is the one that it knows."""

    def __init__(self) -> None:
        super().__init__()
        self.response_answer = CreateResponseResponse(
            response=response_of(), receipt=Receipt(counted_messages=1, remaining_messages=None)
        )
        self.page = ResponseItemPage(object="list", has_more=False)
        self._response_server: grpc.aio.Server | None = None

    async def __aenter__(self) -> Self:
        server = self._response_server = grpc.aio.server()
        completion_service_pb2_grpc.add_CompletionServiceServicer_to_server(FakeResponseCompletions(self), server)
        response_service_pb2_grpc.add_ResponseServiceServicer_to_server(FakeResponses(self), server)
        self.port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._response_server is not None
        await self._response_server.stop(None)


class FakeResponseCompletions(FakeCompletions):
    """Makes responses as the script of its core says."""

    def __init__(self, core: FakeResponseCore) -> None:
        super().__init__(core)
        self._response_core = core

    async def CreateResponse(  # noqa: N802
        self, request: CreateResponseRequest, context: Any
    ) -> CreateResponseResponse:
        await self._response_core.note(request, context)
        return self._response_core.response_answer

    StreamResponse = FakeCompletions.StreamChatCompletion  # type: ignore[assignment]  # steps are steps


class FakeResponses(response_service_pb2_grpc.ResponseServiceServicer):
    """Knows one response."""

    def __init__(self, core: FakeResponseCore) -> None:
        self._core = core

    async def GetResponse(self, request: GetResponseRequest, context: Any) -> GetResponseResponse:  # noqa: N802
        await self._note(request, context)
        return GetResponseResponse(response=response_of())

    async def DeleteResponse(  # noqa: N802
        self, request: DeleteResponseRequest, context: Any
    ) -> DeleteResponseResponse:
        await self._note(request, context)
        return DeleteResponseResponse()

    async def ListResponseInputItems(  # noqa: N802
        self, request: ListResponseInputItemsRequest, context: Any
    ) -> ListResponseInputItemsResponse:
        await self._note(request, context)
        return ListResponseInputItemsResponse(page=self._core.page)

    async def _note(self, request: Any, context: Any) -> None:
        await self._core.note(request, context)
        if request.response_id != RESPONSE_ID:
            message = f"Response with id '{request.response_id}' not found."
            metadata = {"response_id": request.response_id}
            await fail(context, FakeFailure(grpc.StatusCode.NOT_FOUND, "RESPONSE_NOT_FOUND", message, metadata))
