"""Chat completions: check, reserve, ask the provider, settle. Whatever happens in between, somebody settles.

answered whole               settled with the provider's usage (or an estimate), before the caller sees the end
refused before dispatch      nothing reserved
failed before any output     released, no charge
failed after output          settled with what was observed
caller gone, at any await    settled with what was observed; the provider's connection is closed
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import date

from quillgate.v1.chat_completion_pb2 import ChatCompletion, ChatCompletionChunk, ChatCompletionRequest
from quillgate_core.catalogue import Catalogue
from quillgate_core.chat_rules import check_chat
from quillgate_core.chat_tally import ChatTally, clean_answer, estimate
from quillgate_core.counting import Usage, counted_messages, sane
from quillgate_core.errors import DuplicateRequest, QuillgateError
from quillgate_core.holds import chat_hold
from quillgate_core.metering import Metering
from quillgate_core.principal import INFERENCE, Principal
from quillgate_core.reservation import Receipt, Release, Reservation, Reserve, Settle, UsageSource
from quillgate_core.routing import attempts
from quillgate_core.upstream import ChatProvider, PreparedChat

log = logging.getLogger(__name__)

ENDPOINT = "chat.completions"
SETTLE_WAIT_S = 2.0
"""How long an answer waits for its settlement when the database is away."""


@dataclass(frozen=True, slots=True)
class ChatBatch:
    """What is passed on at once: chunks, the reservation with the first ones, the receipt with the last."""

    chunks: Sequence[ChatCompletionChunk]
    reservation: Reservation | None = None
    receipt: Receipt | None = None


@dataclass(frozen=True, slots=True)
class _Admitted:
    """A request that is reserved and ready to be sent."""

    reservation: Reservation
    provider: ChatProvider
    prepared: PreparedChat
    prompt_bytes: int


class Completions:
    """The use case behind CompletionService; its rows in the ledger are owned by this core instance."""

    def __init__(
        self,
        catalogue: Catalogue,
        providers: Mapping[str, ChatProvider],
        metering: Metering,
        *,
        clock: Callable[[], float] = time.time,
        settle_wait_s: float = SETTLE_WAIT_S,
    ) -> None:
        self._catalogue = catalogue
        self._providers = providers
        self._metering = metering
        self._clock = clock
        self._settle_wait_s = settle_wait_s

    async def create_chat(
        self, principal: Principal, request_id: str, request: ChatCompletionRequest
    ) -> tuple[ChatCompletion, Receipt]:
        """Answers in one piece; the receipt is durable when this returns, or pending when the database is away."""
        admitted = await self._admit(principal, request_id, request, stream=False)
        try:
            answer = await admitted.provider.create_chat(admitted.prepared)
            answer_id, created = f"chatcmpl-{request_id}", int(self._clock())
            usage, source = clean_answer(answer, request, fallback_id=answer_id, created=created)
        except Exception:
            await self._release(admitted)
            raise
        except BaseException:
            self._settle_gone(admitted, estimate(admitted.prompt_bytes, 0), "estimate")
            raise
        return answer, await self._settle(admitted, usage, source, outcome="complete")

    async def stream_chat(
        self, principal: Principal, request_id: str, request: ChatCompletionRequest
    ) -> AsyncIterator[ChatBatch]:
        """Answers in pieces; the receipt comes with the last batch, durable or pending as in create_chat."""
        admitted = await self._admit(principal, request_id, request, stream=True)
        tally = ChatTally(
            request,
            fallback_id=f"chatcmpl-{request_id}",
            created=int(self._clock()),
            provider=admitted.provider.name,
        )
        reservation: Reservation | None = admitted.reservation
        try:
            async with aclosing(admitted.provider.stream_chat(admitted.prepared)) as batches:  # type: ignore[type-var]
                async for received in batches:
                    if chunks := tally.take(received):
                        yield ChatBatch(chunks, reservation)
                        reservation = None
            tally.finish()
        except Exception:
            await self._end_failed(admitted, tally)
            raise
        except BaseException:
            self._settle_gone(admitted, *tally.usage())
            raise
        receipt = await self._settle(admitted, *tally.usage(), outcome="complete")
        yield ChatBatch(tally.last_chunks(), None, receipt)

    async def _admit(
        self, principal: Principal, request_id: str, request: ChatCompletionRequest, *, stream: bool
    ) -> _Admitted:
        """Checks, chooses, translates, and reserves last: until then a refusal costs nothing."""
        principal.require(INFERENCE)
        check_chat(request)
        principal.require_model(request.model)
        model = self._catalogue.get(request.model)
        upstream = attempts(model)[0]
        provider = self._providers[upstream.provider]
        hold = chat_hold(request, model)
        prepared = provider.prepare_chat(
            request, model=upstream.model, stream=stream, max_output_tokens=hold.lowered_output_tokens
        )
        reservation = await self._metering.reserve(
            Reserve(
                workspace_id=principal.workspace_id,
                request_id=request_id,
                hold_messages=hold.hold_messages,
                min_hold_messages=hold.min_hold_messages,
                key_id=principal.key_id,
                key_revision=principal.key_revision,
                owner=self._metering.instance_id,
                endpoint=ENDPOINT,
                model=request.model,
                upstream=provider.name,
            )
        )
        if reservation.replayed:
            raise DuplicateRequest(request_id)
        admitted = _Admitted(reservation, provider, prepared, request.ByteSize())
        limit = hold.output_tokens_within(reservation.held_messages)
        if limit is None:
            return admitted
        try:
            shorter = provider.prepare_chat(request, model=upstream.model, stream=stream, max_output_tokens=limit)
        except Exception:
            await self._release(admitted)
            raise
        return replace(admitted, prepared=shorter)

    async def _settle(self, admitted: _Admitted, usage: Usage, source: UsageSource, *, outcome: str) -> Receipt:
        step = self._settle_step(admitted, usage, source, outcome=outcome)
        return await self._end(step) or _pending_receipt(step, admitted.reservation.day)

    async def _release(self, admitted: _Admitted) -> None:
        reservation = admitted.reservation
        step = Release(
            workspace_id=reservation.workspace_id,
            request_id=reservation.request_id,
            owner=self._metering.instance_id,
            day=reservation.day,
            outcome="provider_failed",
        )
        await self._end(step)

    async def _end(self, step: Settle | Release) -> Receipt | None:
        """Ends the request durably, waiting a moment so that a caller who looks finds nothing held.

        None when that takes too long (it lands later) or cannot be done, as when the hold was charged meanwhile. It
        raises nothing: the caller gets its answer, or the error that ended the request, in any case.
        """
        end = self._metering.settle(step) if isinstance(step, Settle) else self._metering.release(step)
        try:
            async with asyncio.timeout(self._settle_wait_s):
                return await end
        except TimeoutError:
            log.warning("request %s is ended later: the database is away", step.request_id)
        except QuillgateError as error:
            log.error("request %s could not be ended: %s", step.request_id, error.message)
        return None

    async def _end_failed(self, admitted: _Admitted, tally: ChatTally) -> None:
        if tally.started:
            await self._settle(admitted, *tally.usage(), outcome="provider_failed")
        else:
            await self._release(admitted)

    def _settle_gone(self, admitted: _Admitted, usage: Usage, source: UsageSource) -> None:
        self._metering.settle_nowait(self._settle_step(admitted, usage, source, outcome="caller_gone"))

    def _settle_step(self, admitted: _Admitted, usage: Usage, source: UsageSource, *, outcome: str) -> Settle:
        return Settle(
            workspace_id=admitted.reservation.workspace_id,
            request_id=admitted.reservation.request_id,
            usage=usage,
            usage_source=source,
            owner=self._metering.instance_id,
            day=admitted.reservation.day,
            outcome=outcome,
        )


def _pending_receipt(step: Settle, day: date) -> Receipt:
    """Returns what will be charged once the database is back, so that an answer need not wait for it."""
    usage, _ = sane(step.usage)
    return Receipt(
        workspace_id=step.workspace_id,
        request_id=step.request_id,
        day=day,
        counted_messages=counted_messages(usage),
        usage=usage,
        usage_source=step.usage_source,
        remaining_messages=None,
        is_pending=True,
    )
