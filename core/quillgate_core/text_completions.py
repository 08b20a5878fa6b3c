"""Text completions: check, choose an upstream and a way to it, and let `Metered` reserve, serve and settle.

One reservation covers all prompts of a request, however many calls they take.
"""

import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing

from quillgate.v1.text_completion_pb2 import TextCompletion, TextCompletionRequest
from quillgate_core.catalogue import Models, ModelUpstream
from quillgate_core.holds import text_hold
from quillgate_core.metered import SETTLE_WAIT_S, Batch, Metered
from quillgate_core.metering import Metering
from quillgate_core.model_access import usable_model
from quillgate_core.principal import INFERENCE, Principal
from quillgate_core.reservation import Receipt, Reservation
from quillgate_core.routing import attempts
from quillgate_core.text_dispatch import ChatText, NativeText, TextDispatch, TextRoute
from quillgate_core.text_rules import check_endpoint, check_text
from quillgate_core.text_tally import TextTally, WholeTextTally
from quillgate_core.upstream import ChatProvider, TextProvider

ENDPOINT = "completions"

PieceBatch = Batch[TextCompletion]
"""Pieces that are passed on at once."""


class TextCompletions:
    """The use case behind the text RPCs of CompletionService.

    `text_providers` are those of the `providers` that speak text completions themselves: they are preferred.
    """

    def __init__(
        self,
        catalogue: Models,
        providers: Mapping[str, ChatProvider],
        metering: Metering,
        *,
        text_providers: Mapping[str, TextProvider],
        clock: Callable[[], float] = time.time,
        settle_wait_s: float = SETTLE_WAIT_S,
    ) -> None:
        self._catalogue = catalogue
        self._providers = providers
        self._text_providers = text_providers
        self._metered = Metered(metering, settle_wait_s=settle_wait_s)
        self._clock = clock

    async def create(
        self, principal: Principal, request_id: str, request: TextCompletionRequest
    ) -> tuple[TextCompletion, Receipt]:
        """Answers in one piece; the receipt is durable when this returns, or pending when the database is away.

        When one of several prompts fails, all fail, and nothing is charged: the caller gets nothing.
        """
        route, reservation, dispatch = await self._admit(principal, request_id, request, stream=False)
        tally = WholeTextTally(
            request,
            route.calls,
            fallback_id=f"cmpl-{request_id}",
            created=int(self._clock()),
            provider=route.provider,
        )
        received = self._metered.stream(reservation, dispatch.answers(tally), tally)
        async with aclosing(received) as batches:
            async for batch in batches:
                if batch.receipt is not None:
                    return batch.pieces[0], batch.receipt
        raise AssertionError("a metered stream ends with its receipt or an exception")

    async def stream(
        self, principal: Principal, request_id: str, request: TextCompletionRequest
    ) -> AsyncGenerator[PieceBatch, None]:
        """Answers in pieces, one prompt after the other; the receipt comes with the last batch, as in create."""
        route, reservation, dispatch = await self._admit(principal, request_id, request, stream=True)
        tally = TextTally(
            request,
            route.calls,
            fallback_id=f"cmpl-{request_id}",
            created=int(self._clock()),
            provider=route.provider,
        )
        async with aclosing(self._metered.stream(reservation, dispatch.pieces(tally), tally)) as batches:
            async for batch in batches:
                yield batch

    async def _admit(
        self, principal: Principal, request_id: str, request: TextCompletionRequest, *, stream: bool
    ) -> tuple[TextRoute, Reservation, TextDispatch]:
        """Checks, chooses, translates, and reserves last: until then a refusal costs nothing."""
        principal.require(INFERENCE)
        check_text(request)
        model = usable_model(self._catalogue, principal, request.model)
        check_endpoint(model)
        route = self._route(attempts(model, preferred=self._text_providers)[0], request)
        hold = text_hold(request, model, prompts=route.prompts, prompt_tokens=route.prompt_tokens(model))
        dispatch = route.prepare(stream=stream, max_output_tokens=hold.lowered_output_tokens)
        reservation = await self._metered.reserve(
            principal,
            request_id,
            endpoint=ENDPOINT,
            model=model.id,
            upstream=route.provider,
            hold_messages=hold.hold_messages,
            min_hold_messages=hold.min_hold_messages,
        )
        limit = hold.output_tokens_within(reservation.held_messages)
        if limit is None:
            return route, reservation, dispatch
        try:
            return route, reservation, route.prepare(stream=stream, max_output_tokens=limit)
        except Exception:
            await self._metered.release(reservation)
            raise

    def _route(self, upstream: ModelUpstream, request: TextCompletionRequest) -> TextRoute:
        native = self._text_providers.get(upstream.provider)
        if native is not None:
            return NativeText(native, request, model=upstream.model)
        return ChatText(self._providers[upstream.provider], request, model=upstream.model)
