"""CompletionService puts texts, pieces, reservation and receipt where the contract has them."""

from collections.abc import AsyncGenerator
from datetime import date
from typing import Any

from fakes.fake_text_provider import piece, whole
from fakes.sync_rpc import FakeCaller

from quillgate.v1 import completion_service_pb2 as pb
from quillgate.v1.text_completion_pb2 import TextCompletion, TextCompletionRequest
from quillgate_core.counting import Usage
from quillgate_core.metered import Batch
from quillgate_core.principal import INFERENCE, Principal
from quillgate_core.reservation import Receipt, Reservation
from quillgate_core.rpc.completion_service import CompletionService

PRINCIPAL = Principal("key_1", 1, "ws_1", frozenset({INFERENCE}))
DAY = date(2030, 1, 1)
RESERVATION = Reservation("ws_1", "req_test", DAY, 3, "open", 7, False)
RECEIPT = Receipt("ws_1", "req_test", DAY, 1, Usage(10, 4, 5), "provider", 6)


class FakeTexts:
    """The use case: answers what it was made with, and notes who asked for what."""

    def __init__(self, *batches: Batch[TextCompletion]) -> None:
        self._batches = batches
        self.asked: list[tuple[Principal, str, str]] = []
        self.is_closed = False

    async def create(
        self, principal: Principal, request_id: str, request: TextCompletionRequest
    ) -> tuple[TextCompletion, Receipt]:
        self.asked.append((principal, request_id, request.model))
        return whole("a"), RECEIPT

    async def stream(
        self, principal: Principal, request_id: str, request: TextCompletionRequest
    ) -> AsyncGenerator[Batch[TextCompletion], None]:
        self.asked.append((principal, request_id, request.model))
        try:
            for batch in self._batches:
                yield batch
        finally:
            self.is_closed = True


def _service(texts: Any) -> Any:
    unasked: Any = None
    return CompletionService(unasked, FakeCaller(PRINCIPAL), texts=texts, responses=unasked, transcriptions=unasked)


async def test_whole_answer_with_its_receipt() -> None:
    """The use case is asked for the caller's request under its id."""
    texts = FakeTexts()
    request = pb.CreateTextCompletionRequest(completion=TextCompletionRequest(model="a/m"))
    answer = await _service(texts).CreateTextCompletion(request, None)
    assert texts.asked[0][0] == PRINCIPAL
    assert texts.asked[0][2] == "a/m"
    assert answer.completion.choices[0].text == "a"
    assert (answer.receipt.counted_messages, answer.receipt.remaining_messages) == (1, 6)


async def test_stream_has_reservation_first_and_receipt_last() -> None:
    """Every batch is one message; what was set aside is on the first, what was charged on the last."""
    texts = FakeTexts(Batch([piece("a"), piece("b")], RESERVATION), Batch([piece("c")]), Batch([], None, RECEIPT))
    request = pb.StreamTextCompletionRequest(completion=TextCompletionRequest(model="a/m"))
    messages = [message async for message in _service(texts).StreamTextCompletion(request, None)]
    assert [[item.choices[0].text for item in message.pieces] for message in messages] == [["a", "b"], ["c"], []]
    assert [message.HasField("reservation") for message in messages] == [True, False, False]
    assert [message.HasField("receipt") for message in messages] == [False, False, True]


async def test_reader_that_stops_closes_the_use_case() -> None:
    """Closing the RPC's stream closes the stream below it at once."""
    texts = FakeTexts(Batch([piece("a")], RESERVATION), Batch([piece("b")]))
    request = pb.StreamTextCompletionRequest(completion=TextCompletionRequest(model="a/m"))
    answer = _service(texts).StreamTextCompletion(request, None)
    await anext(answer)
    await answer.aclose()
    assert texts.is_closed
