"""CompletionService: translates between the contract's envelopes and `Completions`."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from quillgate.v1 import completion_service_pb2 as pb
from quillgate.v1.completion_service_pb2_grpc import CompletionServiceServicer
from quillgate_core.completions import ChatBatch, Completions
from quillgate_core.rpc.call import CurrentCall, current_call
from quillgate_core.rpc.convert import from_receipt, from_reservation


class CompletionService(CompletionServiceServicer):
    """Serves the completion RPCs."""

    def __init__(self, completions: Completions, call: CurrentCall = current_call) -> None:
        self._completions = completions
        self._call = call

    async def CreateChatCompletion(  # noqa: N802
        self, request: pb.CreateChatCompletionRequest, context: Any
    ) -> pb.CreateChatCompletionResponse:
        """Answers in one piece."""
        call = self._call()
        answer, receipt = await self._completions.create_chat(call.principal, call.request_id, request.completion)
        return pb.CreateChatCompletionResponse(completion=answer, receipt=from_receipt(receipt))

    async def StreamChatCompletion(  # noqa: N802
        self, request: pb.StreamChatCompletionRequest, context: Any
    ) -> AsyncIterator[pb.StreamChatCompletionResponse]:
        """Answers in pieces."""
        call = self._call()
        answer = self._completions.stream_chat(call.principal, call.request_id, request.completion)
        async with aclosing(answer) as batches:
            async for batch in batches:
                yield _response(batch)


def _response(batch: ChatBatch) -> pb.StreamChatCompletionResponse:
    response = pb.StreamChatCompletionResponse(chunks=batch.pieces)
    if batch.reservation is not None:
        response.reservation.CopyFrom(from_reservation(batch.reservation))
    if batch.receipt is not None:
        response.receipt.CopyFrom(from_receipt(batch.receipt))
    return response
