"""The response RPCs of CompletionService put events, receipts and what was ignored where they belong."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import date
from typing import Any

from fakes.sync_rpc import FakeCaller

from quillgate.v1 import completion_service_pb2 as pb
from quillgate.v1.response_pb2 import Response, ResponseEvent, ResponseRequest
from quillgate_core.counting import Usage
from quillgate_core.metered import Batch
from quillgate_core.principal import INFERENCE, Principal
from quillgate_core.reservation import Receipt, Reservation
from quillgate_core.responses import ResponseBatch
from quillgate_core.rpc.completion_service import CompletionService

PRINCIPAL = Principal("key_1", 1, "ws_1", frozenset({INFERENCE}))
DAY = date(2030, 1, 1)
RESERVATION = Reservation("ws_1", "req_test", DAY, 3, "open", 7, False)
RECEIPT = Receipt("ws_1", "req_test", DAY, 1, Usage(10, 4, 5), "provider", None)
CREATED = ResponseEvent(type="response.created")
COMPLETED = ResponseEvent(type="response.completed")


class FakeResponses:
    """The use case: answers the same to everybody, and notes who asked for what."""

    def __init__(self) -> None:
        self.asked: list[tuple[Principal, str, str]] = []
        self.is_closed = False

    async def create(
        self, principal: Principal, request_id: str, request: ResponseRequest
    ) -> tuple[Response, Receipt, tuple[str, ...]]:
        self.asked.append((principal, request_id, request.model))
        return Response(id="resp_1"), RECEIPT, ("tools[0]:web_search",)

    async def stream(
        self, principal: Principal, request_id: str, request: ResponseRequest
    ) -> AsyncIterator[ResponseBatch]:
        self.asked.append((principal, request_id, request.model))
        try:
            yield ResponseBatch(Batch([CREATED], RESERVATION), ("tools[0]:web_search",))
            yield ResponseBatch(Batch([COMPLETED], None, RECEIPT))
        finally:
            self.is_closed = True


def _service(responses: FakeResponses) -> CompletionService:
    unasked: Any = None
    asked: Any = responses
    return CompletionService(unasked, FakeCaller(PRINCIPAL), texts=unasked, responses=asked, transcriptions=unasked)


async def test_whole_response() -> None:
    """The response, its receipt, and what was ignored."""
    responses = FakeResponses()
    request = pb.CreateResponseRequest(response=ResponseRequest(model="m"))
    answer = await _service(responses).CreateResponse(request, None)
    assert responses.asked == [(PRINCIPAL, "req_test", "m")]
    assert (answer.response.id, answer.receipt.counted_messages) == ("resp_1", 1)
    assert list(answer.ignored) == ["tools[0]:web_search"]


async def test_stream() -> None:
    """The reservation and what was ignored are on the first message, the receipt on the last."""
    responses = FakeResponses()
    request = pb.StreamResponseRequest(response=ResponseRequest(model="m"))
    first, last = [message async for message in _service(responses).StreamResponse(request, None)]
    assert (list(first.events), list(last.events)) == ([CREATED], [COMPLETED])
    assert (first.reservation.held_messages, list(first.ignored)) == (3, ["tools[0]:web_search"])
    assert (first.HasField("receipt"), last.HasField("reservation"), list(last.ignored)) == (False, False, [])
    assert last.receipt.counted_messages == 1


async def test_stream_that_is_left() -> None:
    """A caller that goes away ends the use case at once."""
    responses = FakeResponses()
    request = pb.StreamResponseRequest(response=ResponseRequest(model="m"))
    async with aclosing(_service(responses).StreamResponse(request, None)) as messages:  # type: ignore[type-var]
        await anext(messages)
    assert responses.is_closed
