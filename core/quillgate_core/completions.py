"""Chat completions: check, translate for each candidate, and let `Metered` reserve, serve and settle."""

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

import msgspec

from quillgate.v1.chat_completion_pb2 import ChatCompletion, ChatCompletionChunk, ChatCompletionRequest
from quillgate_core.admission import Admission, Ask
from quillgate_core.chat_rules import check_chat, check_endpoint
from quillgate_core.chat_tally import ChatTally, clean_answer, estimate
from quillgate_core.errors import InvalidRequest
from quillgate_core.fallback_models import named_models
from quillgate_core.holds import chat_hold
from quillgate_core.metered import Batch, Metered
from quillgate_core.principal import INFERENCE, Principal
from quillgate_core.reservation import Receipt
from quillgate_core.routing import Candidate
from quillgate_core.upstream import ChatProvider, PreparedChat

ChatBatch = Batch[ChatCompletionChunk]
"""Chunks that are passed on at once."""


class ChatPlan(msgspec.Struct, frozen=True):
    """A chat request that is ready to be sent to one candidate."""

    provider: ChatProvider
    prepared: PreparedChat
    model: str
    """What the answer calls the model."""
    tally: ChatTally


class Completions:
    """The use case behind the chat RPCs of CompletionService."""

    def __init__(self, admission: Admission, metered: Metered, *, clock: Callable[[], float] = time.time) -> None:
        self._admission = admission
        self._metered = metered
        self._clock = clock

    async def create_chat(
        self, principal: Principal, request_id: str, request: ChatCompletionRequest
    ) -> tuple[ChatCompletion, Receipt]:
        """Answers in one piece; the receipt is durable when this returns, or pending when the database is away."""
        answer_id, created = f"chatcmpl-{request_id}", int(self._clock())
        reservation, failover = await self._admission.admit(self._ask(principal, request_id, request, stream=False))
        return await self._metered.answer(
            reservation,
            failover,
            lambda plan: plan.provider.create_chat(plan.prepared),
            used=lambda answer: clean_answer(
                answer, request, fallback_id=answer_id, created=created, model=failover.plan.model
            ),
            observed=estimate(request.ByteSize(), 0),
            upstream_id=lambda answer: answer.id,
        )

    async def stream_chat(
        self, principal: Principal, request_id: str, request: ChatCompletionRequest
    ) -> AsyncGenerator[ChatBatch, None]:
        """Answers in pieces; the receipt comes with the last batch, durable or pending as in create_chat."""
        reservation, failover = await self._admission.admit(self._ask(principal, request_id, request, stream=True))
        answered = self._metered.stream(reservation, failover, lambda plan: plan.provider.stream_chat(plan.prepared))
        async with aclosing(answered) as batches:
            async for batch in batches:
                yield batch

    def _ask(
        self, principal: Principal, request_id: str, request: ChatCompletionRequest, *, stream: bool
    ) -> Ask[ChatPlan]:
        """Checks everything that costs nothing to check."""
        principal.require(INFERENCE)
        request, ids = named_models(request)
        check_chat(request)
        models = self._admission.models(principal, ids)
        for model in models:
            check_endpoint(model)
        created = int(self._clock())

        def plan(candidate: Candidate, max_output_tokens: int | None) -> ChatPlan:
            provider = chat_provider(candidate)
            prepared = provider.prepare_chat(
                request, model=candidate.upstream.model, stream=stream, max_output_tokens=max_output_tokens
            )
            name = ids[candidate.rank]
            tally = ChatTally(
                request, fallback_id=f"chatcmpl-{request_id}", created=created, provider=provider.name, model=name
            )
            return ChatPlan(provider, prepared, name, tally)

        return Ask(
            principal,
            request_id,
            "chat.completions",
            models,
            hold=lambda candidate: chat_hold(request, candidate.model),
            plan=plan,
            session=request.prompt_cache_key,
        )


def chat_provider(candidate: Candidate) -> ChatProvider:
    """Returns what a candidate answers chats with; raises InvalidRequest where it has no such thing."""
    provider = candidate.account.chat
    if provider is None:
        raise InvalidRequest(
            f"The provider `{candidate.upstream.provider}` does not answer chats.",
            param="model",
            code="unsupported_value",
        )
    return provider
