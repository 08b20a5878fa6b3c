"""Chat completions: check, choose an upstream, translate, and let `Metered` reserve, serve and settle."""

import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass

from quillgate.v1.chat_completion_pb2 import ChatCompletion, ChatCompletionChunk, ChatCompletionRequest
from quillgate_core.catalogue import Models
from quillgate_core.chat_rules import check_chat, check_endpoint
from quillgate_core.chat_tally import ChatTally, clean_answer, estimate
from quillgate_core.holds import chat_hold
from quillgate_core.metered import SETTLE_WAIT_S, Batch, Metered
from quillgate_core.metering import Metering
from quillgate_core.model_access import usable_model
from quillgate_core.principal import INFERENCE, Principal
from quillgate_core.reservation import Receipt, Reservation
from quillgate_core.routing import attempts
from quillgate_core.upstream import ChatProvider, PreparedChat

ENDPOINT = "chat.completions"

ChatBatch = Batch[ChatCompletionChunk]
"""Chunks that are passed on at once."""


@dataclass(frozen=True, slots=True)
class AdmittedChat:
    """A chat request that is reserved and ready to be sent."""

    reservation: Reservation
    provider: ChatProvider
    prepared: PreparedChat


class Completions:
    """The use case behind the chat RPCs of CompletionService, and what other endpoints are translated to."""

    def __init__(
        self,
        catalogue: Models,
        providers: Mapping[str, ChatProvider],
        metering: Metering,
        *,
        clock: Callable[[], float] = time.time,
        settle_wait_s: float = SETTLE_WAIT_S,
    ) -> None:
        self._catalogue = catalogue
        self._providers = providers
        self._metered = Metered(metering, settle_wait_s=settle_wait_s)
        self._clock = clock

    async def create_chat(
        self, principal: Principal, request_id: str, request: ChatCompletionRequest
    ) -> tuple[ChatCompletion, Receipt]:
        """Answers in one piece; the receipt is durable when this returns, or pending when the database is away."""
        answer_id, created = f"chatcmpl-{request_id}", int(self._clock())
        admitted = await self.admit(principal, request_id, request, stream=False)
        return await self._metered.answer(
            admitted.reservation,
            lambda: admitted.provider.create_chat(admitted.prepared),
            used=lambda answer: clean_answer(answer, request, fallback_id=answer_id, created=created),
            observed=estimate(request.ByteSize(), 0),
        )

    async def stream_chat(
        self, principal: Principal, request_id: str, request: ChatCompletionRequest
    ) -> AsyncGenerator[ChatBatch, None]:
        """Answers in pieces; the receipt comes with the last batch, durable or pending as in create_chat."""
        answer_id, created = f"chatcmpl-{request_id}", int(self._clock())
        admitted = await self.admit(principal, request_id, request, stream=True)
        tally = ChatTally(request, fallback_id=answer_id, created=created, provider=admitted.provider.name)
        received = admitted.provider.stream_chat(admitted.prepared)
        async with aclosing(self._metered.stream(admitted.reservation, received, tally)) as batches:
            async for batch in batches:
                yield batch

    async def admit(
        self,
        principal: Principal,
        request_id: str,
        request: ChatCompletionRequest,
        *,
        stream: bool,
        endpoint: str = ENDPOINT,
    ) -> AdmittedChat:
        """Checks, chooses, translates, and reserves last: until then a refusal costs nothing."""
        principal.require(INFERENCE)
        check_chat(request)
        model = usable_model(self._catalogue, principal, request.model)
        if endpoint == ENDPOINT:
            check_endpoint(model)
        upstream = attempts(model)[0]
        provider = self._providers[upstream.provider]
        hold = chat_hold(request, model)
        prepared = provider.prepare_chat(
            request, model=upstream.model, stream=stream, max_output_tokens=hold.lowered_output_tokens
        )
        reservation = await self._metered.reserve(
            principal,
            request_id,
            endpoint=endpoint,
            model=model.id,
            upstream=provider.name,
            hold_messages=hold.hold_messages,
            min_hold_messages=hold.min_hold_messages,
        )
        limit = hold.output_tokens_within(reservation.held_messages)
        if limit is None:
            return AdmittedChat(reservation, provider, prepared)
        try:
            prepared = provider.prepare_chat(request, model=upstream.model, stream=stream, max_output_tokens=limit)
        except Exception:
            await self._metered.release(reservation)
            raise
        return AdmittedChat(reservation, provider, prepared)
