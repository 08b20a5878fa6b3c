"""CompletionService: translates between the contract's envelopes and the use cases of each endpoint."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, TypeVar

from quillgate.v1 import completion_service_pb2 as pb
from quillgate.v1.completion_service_pb2_grpc import CompletionServiceServicer
from quillgate_core.completions import Completions
from quillgate_core.metered import Batch
from quillgate_core.responses import Responses
from quillgate_core.rpc.call import CurrentCall, current_call
from quillgate_core.rpc.convert import from_receipt, from_reservation
from quillgate_core.rpc.transcription_upload import read_upload
from quillgate_core.text_completions import TextCompletions
from quillgate_core.transcriptions import Transcriptions

_ResponseT = TypeVar(
    "_ResponseT",
    pb.StreamChatCompletionResponse,
    pb.StreamTextCompletionResponse,
    pb.StreamResponseResponse,
    pb.StreamTranscriptionResponse,
)


class CompletionService(CompletionServiceServicer):
    """Serves the completion RPCs."""

    def __init__(
        self,
        completions: Completions,
        call: CurrentCall = current_call,
        *,
        texts: TextCompletions,
        responses: Responses,
        transcriptions: Transcriptions,
    ) -> None:
        self._completions = completions
        self._texts = texts
        self._responses = responses
        self._transcriptions = transcriptions
        self._call = call

    async def CreateChatCompletion(  # noqa: N802
        self, request: pb.CreateChatCompletionRequest, context: Any
    ) -> pb.CreateChatCompletionResponse:
        """Answers in one piece."""
        call = self._call()
        if request.encoding == pb.ANSWER_ENCODING_JSON:
            written, receipt = await self._completions.create_chat_json(
                call.principal, call.request_id, request.completion
            )
            return pb.CreateChatCompletionResponse(
                completion_json=written, receipt=from_receipt(receipt), upstream=receipt.upstream
            )
        answer, receipt = await self._completions.create_chat(call.principal, call.request_id, request.completion)
        return pb.CreateChatCompletionResponse(
            completion=answer, receipt=from_receipt(receipt), upstream=receipt.upstream
        )

    async def StreamChatCompletion(  # noqa: N802
        self, request: pb.StreamChatCompletionRequest, context: Any
    ) -> AsyncIterator[pb.StreamChatCompletionResponse]:
        """Answers in pieces."""
        call = self._call()
        if request.encoding == pb.ANSWER_ENCODING_JSON:
            written = await self._completions.open_chat_json(call.principal, call.request_id, request.completion)
            async with aclosing(written) as texts:
                async for text in texts:
                    yield _accounted(pb.StreamChatCompletionResponse(chunks_json=text.pieces), text)
            return
        answer = self._completions.stream_chat(call.principal, call.request_id, request.completion)
        async with aclosing(answer) as batches:
            async for batch in batches:
                yield _accounted(pb.StreamChatCompletionResponse(chunks=batch.pieces), batch)

    async def CreateTextCompletion(  # noqa: N802
        self, request: pb.CreateTextCompletionRequest, context: Any
    ) -> pb.CreateTextCompletionResponse:
        """Continues a text in one piece."""
        call = self._call()
        answer, receipt = await self._texts.create(call.principal, call.request_id, request.completion)
        return pb.CreateTextCompletionResponse(
            completion=answer, receipt=from_receipt(receipt), upstream=receipt.upstream
        )

    async def StreamTextCompletion(  # noqa: N802
        self, request: pb.StreamTextCompletionRequest, context: Any
    ) -> AsyncIterator[pb.StreamTextCompletionResponse]:
        """Continues a text in pieces."""
        call = self._call()
        async with aclosing(self._texts.stream(call.principal, call.request_id, request.completion)) as batches:
            async for batch in batches:
                yield _accounted(pb.StreamTextCompletionResponse(pieces=batch.pieces), batch)

    async def CreateResponse(  # noqa: N802
        self, request: pb.CreateResponseRequest, context: Any
    ) -> pb.CreateResponseResponse:
        """Makes a response in one piece."""
        call = self._call()
        answer, receipt, ignored = await self._responses.create(call.principal, call.request_id, request.response)
        return pb.CreateResponseResponse(
            response=answer, receipt=from_receipt(receipt), ignored=ignored, upstream=receipt.upstream
        )

    async def StreamResponse(  # noqa: N802
        self, request: pb.StreamResponseRequest, context: Any
    ) -> AsyncIterator[pb.StreamResponseResponse]:
        """Makes a response in events."""
        call = self._call()
        async with aclosing(self._responses.stream(call.principal, call.request_id, request.response)) as made:
            async for part in made:
                message = pb.StreamResponseResponse(events=part.batch.pieces, ignored=part.ignored)
                yield _accounted(message, part.batch)

    async def CreateTranscription(  # noqa: N802
        self, request_iterator: AsyncIterator[pb.CreateTranscriptionRequest], context: Any
    ) -> pb.CreateTranscriptionResponse:
        """Turns speech into text in one piece."""
        call = self._call()
        options, audio = await read_upload(request_iterator)
        answer, receipt = await self._transcriptions.create(call.principal, call.request_id, options, audio)
        charged = from_receipt(receipt)
        if isinstance(answer, str):
            return pb.CreateTranscriptionResponse(text=answer, receipt=charged, upstream=receipt.upstream)
        return pb.CreateTranscriptionResponse(transcription=answer, receipt=charged, upstream=receipt.upstream)

    async def StreamTranscription(  # noqa: N802
        self, request_iterator: AsyncIterator[pb.StreamTranscriptionRequest], context: Any
    ) -> AsyncIterator[pb.StreamTranscriptionResponse]:
        """Turns speech into text in events."""
        call = self._call()
        options, audio = await read_upload(request_iterator)
        answer = self._transcriptions.stream(call.principal, call.request_id, options, audio)
        async with aclosing(answer) as batches:
            async for batch in batches:
                yield _accounted(pb.StreamTranscriptionResponse(events=batch.pieces), batch)


def _accounted(response: _ResponseT, batch: Batch[Any]) -> _ResponseT:
    """Gives a message the reservation, with who answers, or the receipt that its batch came with."""
    if batch.reservation is not None:
        response.reservation.CopyFrom(from_reservation(batch.reservation))
        response.upstream = batch.upstream
    if batch.receipt is not None:
        response.receipt.CopyFrom(from_receipt(batch.receipt))
    return response
