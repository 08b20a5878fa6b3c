"""Text completions: check, find a way for each candidate, and let `Metered` reserve, serve and settle.

One reservation covers all prompts of a request, however many calls they take.
"""

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass

from quillgate.v1.text_completion_pb2 import TextCompletion, TextCompletionRequest
from quillgate_core.admission import Admission, Ask
from quillgate_core.completions import chat_provider
from quillgate_core.fallback_models import named_models
from quillgate_core.holds import ChatHold, text_hold
from quillgate_core.metered import Batch, Metered
from quillgate_core.principal import INFERENCE, Principal
from quillgate_core.reservation import Receipt
from quillgate_core.routing import Candidate
from quillgate_core.text_dispatch import ChatText, NativeText, TextDispatch, TextRoute
from quillgate_core.text_rules import check_endpoint, check_text, prompt_count
from quillgate_core.text_tally import TextTally, WholeTextTally

PieceBatch = Batch[TextCompletion]
"""Pieces that are passed on at once."""


@dataclass(frozen=True, slots=True)
class TextPlan:
    """A text completion that is ready to be sent to one candidate."""

    dispatch: TextDispatch
    tally: TextTally


class TextCompletions:
    """The use case behind the text RPCs of CompletionService."""

    def __init__(self, admission: Admission, metered: Metered, *, clock: Callable[[], float] = time.time) -> None:
        self._admission = admission
        self._metered = metered
        self._clock = clock

    async def create(
        self, principal: Principal, request_id: str, request: TextCompletionRequest
    ) -> tuple[TextCompletion, Receipt]:
        """Answers in one piece; the receipt is durable when this returns, or pending when the database is away.

        When one of several prompts fails, all fail, and nothing is charged: the caller gets nothing.
        """
        reservation, failover = await self._admission.admit(self._ask(principal, request_id, request, stream=False))
        received = self._metered.stream(reservation, failover, lambda plan: plan.dispatch.answers(plan.tally))
        async with aclosing(received) as batches:
            async for batch in batches:
                if batch.receipt is not None:
                    return batch.pieces[0], batch.receipt
        raise AssertionError("a metered stream ends with its receipt or an exception")

    async def stream(
        self, principal: Principal, request_id: str, request: TextCompletionRequest
    ) -> AsyncGenerator[PieceBatch, None]:
        """Answers in pieces, one prompt after the other; the receipt comes with the last batch, as in create."""
        reservation, failover = await self._admission.admit(self._ask(principal, request_id, request, stream=True))
        answered = self._metered.stream(reservation, failover, lambda plan: plan.dispatch.pieces(plan.tally))
        async with aclosing(answered) as batches:
            async for batch in batches:
                yield batch

    def _ask(
        self, principal: Principal, request_id: str, request: TextCompletionRequest, *, stream: bool
    ) -> Ask[TextPlan]:
        """Checks everything that costs nothing to check."""
        principal.require(INFERENCE)
        request, ids = named_models(request)
        check_text(request)
        models = self._admission.models(principal, ids)
        for model in models:
            check_endpoint(model)
        created = int(self._clock())

        def hold(candidate: Candidate) -> ChatHold:
            way, model = _way(candidate, request), candidate.model
            return text_hold(request, model, prompts=way.prompts, prompt_tokens=way.prompt_tokens(model))

        def plan(candidate: Candidate, max_output_tokens: int | None) -> TextPlan:
            way = _way(candidate, request)
            tally = (TextTally if stream else WholeTextTally)(
                request,
                way.calls,
                fallback_id=f"cmpl-{request_id}",
                created=created,
                provider=way.provider,
                model=ids[candidate.rank],
            )
            return TextPlan(way.prepare(stream=stream, max_output_tokens=max_output_tokens), tally)

        is_one_call = prompt_count(request) == 1
        return Ask(principal, request_id, "completions", models, hold=hold, plan=plan, may_drain=is_one_call)


def _way(candidate: Candidate, request: TextCompletionRequest) -> TextRoute:
    """Returns the way to a candidate: as it is where the provider speaks text completions, else through chat."""
    native = candidate.account.text
    if native is not None:
        return NativeText(native, request, model=candidate.upstream.model)
    return ChatText(chat_provider(candidate), request, model=candidate.upstream.model)
