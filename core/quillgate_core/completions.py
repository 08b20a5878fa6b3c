"""Chat completions: check, translate for each candidate, and let `Metered` reserve, serve and settle."""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import msgspec

from quillgate.v1.chat_completion_pb2 import ChatCompletion, ChatCompletionChunk, ChatCompletionRequest
from quillgate_codec import chat_answer
from quillgate_core.admission import Admission, Ask
from quillgate_core.chat_json_tally import JsonChatTally, WrittenChatTally, clean_answer_value, write_answer
from quillgate_core.chat_progress import estimate
from quillgate_core.chat_rules import check_chat, check_endpoint
from quillgate_core.chat_tally import ChatTally, clean_answer
from quillgate_core.errors import InvalidRequest
from quillgate_core.fallback_models import named_models
from quillgate_core.holds import chat_hold
from quillgate_core.metered import Batch, Metered
from quillgate_core.principal import INFERENCE, Principal
from quillgate_core.reservation import Receipt
from quillgate_core.routing import Candidate
from quillgate_core.tally import Used
from quillgate_core.upstream import ChatProvider, JsonChatProvider, PreparedChat

ChatBatch = Batch[ChatCompletionChunk]
"""Chunks that are passed on at once."""

JsonBatch = Batch[bytes]
"""The same, written as JSON."""


class ChatPlan(msgspec.Struct, frozen=True):
    """A chat request that is ready to be sent to one candidate."""

    provider: ChatProvider
    prepared: PreparedChat
    model: str
    """What the answer calls the model."""
    tally: ChatTally | JsonChatTally | WrittenChatTally
    json_provider: JsonChatProvider | None = None
    """The provider, where its answers are passed on as the JSON that they are."""

    def create(self) -> Awaitable[ChatCompletion | dict[str, Any]]:
        """Sends the request and returns the whole answer."""
        if self.json_provider is not None:
            return self.json_provider.create_chat_value(self.prepared)
        return self.provider.create_chat(self.prepared)

    def stream(self) -> AsyncIterator[list[Any]]:
        """Sends the request and yields what the tally takes."""
        if self.json_provider is not None:
            return self.json_provider.stream_chat_values(self.prepared)
        return self.provider.stream_chat(self.prepared)


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
        answer, receipt = await self._create(principal, request_id, request, as_json=False)
        assert isinstance(answer, ChatCompletion)
        return answer, receipt

    async def create_chat_json(
        self, principal: Principal, request_id: str, request: ChatCompletionRequest
    ) -> tuple[bytes, Receipt]:
        """Answers as create_chat does, in JSON."""
        answer, receipt = await self._create(principal, request_id, request, as_json=True)
        written = chat_answer.to_json(answer) if isinstance(answer, ChatCompletion) else write_answer(answer)
        return written, receipt

    async def stream_chat(
        self, principal: Principal, request_id: str, request: ChatCompletionRequest
    ) -> AsyncGenerator[ChatBatch, None]:
        """Answers in pieces; the receipt comes with the last batch, durable or pending as in create_chat."""
        answered = await self._stream(principal, request_id, request, as_json=False)
        async with aclosing(answered) as batches:
            async for batch in batches:
                yield batch

    async def open_chat_json(
        self, principal: Principal, request_id: str, request: ChatCompletionRequest
    ) -> AsyncGenerator[JsonBatch, None]:
        """Admits a request, and returns what answers as stream_chat does, in JSON; whoever gets it must close it."""
        return await self._stream(principal, request_id, request, as_json=True)

    async def _create(
        self, principal: Principal, request_id: str, request: ChatCompletionRequest, *, as_json: bool
    ) -> tuple[ChatCompletion | dict[str, Any], Receipt]:
        answer_id, created = f"chatcmpl-{request_id}", int(self._clock())
        ask = self._ask(principal, request_id, request, stream=False, as_json=as_json)
        reservation, failover = await self._admission.admit(ask)

        def clean(answer: ChatCompletion | dict[str, Any]) -> Used:
            model = failover.plan.model
            if type(answer) is dict:
                return clean_answer_value(answer, request, fallback_id=answer_id, created=created, model=model)
            assert isinstance(answer, ChatCompletion)
            return clean_answer(answer, request, fallback_id=answer_id, created=created, model=model)

        return await self._metered.answer(
            reservation,
            failover,
            ChatPlan.create,
            used=clean,
            observed=estimate(request.ByteSize(), 0),
            upstream_id=_id_of,
        )

    async def _stream(
        self, principal: Principal, request_id: str, request: ChatCompletionRequest, *, as_json: bool
    ) -> AsyncGenerator[Batch[Any], None]:
        ask = self._ask(principal, request_id, request, stream=True, as_json=as_json)
        reservation, failover = await self._admission.admit(ask)
        return self._metered.stream(reservation, failover, ChatPlan.stream)

    def _ask(
        self, principal: Principal, request_id: str, request: ChatCompletionRequest, *, stream: bool, as_json: bool
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
            name, json_provider = ids[candidate.rank], candidate.account.json_chat if as_json else None
            kind = ChatTally if json_provider is None else JsonChatTally
            tally: ChatTally | JsonChatTally | WrittenChatTally = kind(
                request, fallback_id=f"chatcmpl-{request_id}", created=created, provider=provider.name, model=name
            )
            if as_json and isinstance(tally, ChatTally):
                tally = WrittenChatTally(tally, include_usage=request.stream_options.include_usage)
            return ChatPlan(provider, prepared, name, tally, json_provider)

        return Ask(
            principal,
            request_id,
            "chat.completions",
            models,
            hold=lambda candidate: chat_hold(request, candidate.model),
            plan=plan,
            session=request.prompt_cache_key,
        )


def _id_of(answer: ChatCompletion | dict[str, Any]) -> str:
    told = answer.get("id") if type(answer) is dict else answer.id  # type: ignore[union-attr]
    return told if type(told) is str else ""


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
