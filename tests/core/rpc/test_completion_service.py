"""CompletionService puts answers, chunks, reservation and receipt where the contract has them."""

from collections.abc import AsyncIterator
from datetime import date
from typing import Any

import pytest
from fakes.fake_provider import chunk, whole_answer
from fakes.sync_rpc import FakeCaller
from msgspec.structs import replace

from quillgate.v1 import completion_service_pb2 as pb
from quillgate.v1 import metering_service_pb2
from quillgate.v1.chat_completion_pb2 import ChatCompletion, ChatCompletionRequest
from quillgate_core.completions import ChatBatch
from quillgate_core.counting import Usage
from quillgate_core.metered import Batch
from quillgate_core.principal import INFERENCE, Principal
from quillgate_core.reservation import Receipt, Reservation
from quillgate_core.rpc.completion_service import CompletionService

PRINCIPAL = Principal("key_1", 1, "ws_1", frozenset({INFERENCE}))
DAY = date(2030, 1, 1)
RESERVATION = Reservation("ws_1", "req_test", DAY, 3, "open", 7, False)
RECEIPT = Receipt("ws_1", "req_test", DAY, 1, Usage(10, 4, 5), "estimate", None)


class FakeCompletions:
    """The use case: answers what it was made with, and notes who asked for what."""

    def __init__(self, *batches: ChatBatch, receipt: Receipt = RECEIPT) -> None:
        self._batches = batches
        self._receipt = receipt
        self.asked: list[tuple[Principal, str, str]] = []
        self.is_closed = False

    async def create_chat(
        self, principal: Principal, request_id: str, request: ChatCompletionRequest
    ) -> tuple[ChatCompletion, Receipt]:
        self.asked.append((principal, request_id, request.model))
        return whole_answer(), self._receipt

    async def stream_chat(
        self, principal: Principal, request_id: str, request: ChatCompletionRequest
    ) -> AsyncIterator[ChatBatch]:
        self.asked.append((principal, request_id, request.model))
        try:
            for batch in self._batches:
                yield batch
        finally:
            self.is_closed = True


def _service(completions: Any) -> CompletionService:
    unasked: Any = None
    return CompletionService(
        completions, FakeCaller(PRINCIPAL), texts=unasked, responses=unasked, transcriptions=unasked
    )


@pytest.mark.parametrize("pending", [False, True])
async def test_whole_answer_with_its_receipt(pending: bool) -> None:
    """The use case is asked for the caller's request under its id; a receipt says whether its charge is pending."""
    receipt = replace(RECEIPT, is_pending=pending)
    completions = FakeCompletions(receipt=receipt)
    request = pb.CreateChatCompletionRequest(completion=ChatCompletionRequest(model="m"))
    response = await _service(completions).CreateChatCompletion(request, None)
    assert completions.asked == [(PRINCIPAL, "req_test", "m")]
    assert response.completion == whole_answer()
    assert response.receipt == metering_service_pb2.Receipt(
        request_id="req_test",
        workspace_id="ws_1",
        day="2030-01-01",
        counted_messages=1,
        usage={"prompt_tokens": 10, "cached_tokens": 4, "completion_tokens": 5},
        usage_source=metering_service_pb2.USAGE_SOURCE_ESTIMATE,
        pending=pending,
    )


async def test_stream_carries_what_each_batch_has() -> None:
    """The reservation is on the first message, the receipt on the last, the chunks on theirs in order."""
    completions = FakeCompletions(
        Batch([chunk("a"), chunk("b")], RESERVATION), Batch([chunk("c")]), Batch([], None, RECEIPT)
    )
    stream = _service(completions).StreamChatCompletion(pb.StreamChatCompletionRequest(), None)
    first, second, last = [response async for response in stream]
    assert list(first.chunks) == [chunk("a"), chunk("b")]
    assert first.reservation == metering_service_pb2.Reservation(
        request_id="req_test",
        workspace_id="ws_1",
        day="2030-01-01",
        held_messages=3,
        state=metering_service_pb2.RESERVATION_STATE_OPEN,
        remaining_messages=7,
    )
    assert [response.HasField("reservation") for response in (second, last)] == [False, False]
    assert [response.HasField("receipt") for response in (first, second, last)] == [False, False, True]
    assert not last.receipt.HasField("remaining_messages")


async def test_closing_the_stream_closes_the_use_case() -> None:
    """A caller that goes away between two messages ends the use case at once, not when it is collected."""
    completions = FakeCompletions(Batch([chunk("a")]), Batch([chunk("b")]))
    stream: Any = _service(completions).StreamChatCompletion(pb.StreamChatCompletionRequest(), None)
    await anext(stream)
    await stream.aclose()
    assert completions.is_closed
