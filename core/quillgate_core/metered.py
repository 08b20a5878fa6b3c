"""What every metered request goes through, whatever its endpoint: reserve, serve, settle. Somebody always settles.

    answered whole               settled with the provider's usage (or an estimate), before the caller sees the end
    refused before dispatch      nothing reserved
    failed before any output     released, no charge
    failed after output          settled with what was observed
    caller gone, at any await    settled with what was observed; the provider's connection is closed

It knows neither endpoints nor providers; these give it what to await and a Tally of what was used.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import date
from typing import Generic, Protocol, TypeVar

from quillgate_core.counting import Usage, counted_messages, sane
from quillgate_core.errors import DuplicateRequest, QuillgateError
from quillgate_core.metering import Metering
from quillgate_core.principal import Principal
from quillgate_core.reservation import Receipt, Release, Reservation, Reserve, Settle, UsageSource

log = logging.getLogger(__name__)

SETTLE_WAIT_S = 2.0
"""How long an answer waits for its settlement when the database is away."""

AnswerT = TypeVar("AnswerT")
ReceivedT = TypeVar("ReceivedT", contravariant=True)
SentT = TypeVar("SentT", covariant=True)
Used = tuple[Usage, UsageSource]


class Tally(Protocol[ReceivedT, SentT]):
    """Follows one stream: turns what the provider sends into what the caller gets, and knows what was used."""

    @property
    def started(self) -> bool:
        """Whether the caller has been given any output."""

    def take(self, received: ReceivedT) -> Sequence[SentT]:
        """Returns what to pass on now; may be nothing."""

    def finish(self) -> None:
        """Raises ProviderUnavailable for a stream that ended before it was whole."""

    def usage(self) -> Used:
        """Returns what was used so far: the provider's last word, or an estimate."""

    def last(self) -> Sequence[SentT]:
        """Returns what ends a whole stream, once it is settled."""

    def failure(self, error: Exception) -> Sequence[SentT]:
        """Returns what to pass on before the error ends a stream that has started."""


@dataclass(frozen=True, slots=True)
class Batch(Generic[AnswerT]):
    """What is passed on at once: pieces, the reservation with the first ones, the receipt with the last."""

    pieces: Sequence[AnswerT]
    reservation: Reservation | None = None
    receipt: Receipt | None = None


class Metered:
    """Reserves and ends requests; their rows in the ledger are owned by this core instance."""

    def __init__(self, metering: Metering, *, settle_wait_s: float = SETTLE_WAIT_S) -> None:
        self._metering = metering
        self._settle_wait_s = settle_wait_s

    async def reserve(
        self,
        principal: Principal,
        request_id: str,
        *,
        endpoint: str,
        model: str,
        upstream: str,
        hold_messages: int,
        min_hold_messages: int,
    ) -> Reservation:
        """Reserves, as the last thing before dispatch: until then a refusal costs nothing.

        Raises as Metering.reserve does, and DuplicateRequest for a request id that was used before.
        """
        reservation = await self._metering.reserve(
            Reserve(
                workspace_id=principal.workspace_id,
                request_id=request_id,
                hold_messages=hold_messages,
                min_hold_messages=min_hold_messages,
                key_id=principal.key_id,
                key_revision=principal.key_revision,
                owner=self._metering.instance_id,
                endpoint=endpoint,
                model=model,
                upstream=upstream,
                idempotency=self._metering.current_idempotency(),
            )
        )
        if reservation.replayed:
            raise DuplicateRequest(request_id)
        return reservation

    async def answer(
        self,
        reservation: Reservation,
        work: Callable[[], Awaitable[AnswerT]],
        *,
        used: Callable[[AnswerT], Used],
        observed: Usage,
    ) -> tuple[AnswerT, Receipt]:
        """Awaits a whole answer and settles what it `used`; `observed` is charged when the caller goes away."""
        try:
            answer = await work()
            usage, source = used(answer)
        except Exception:
            await self.release(reservation)
            raise
        except BaseException:
            self._settle_gone(reservation, observed, "estimate")
            raise
        return answer, await self._settle(reservation, usage, source, outcome="complete")

    async def stream(
        self,
        reservation: Reservation,
        batches: AsyncIterator[ReceivedT],
        tally: Tally[ReceivedT, AnswerT],
        *,
        before_last: Callable[[], Awaitable[None]] | None = None,
    ) -> AsyncGenerator[Batch[AnswerT], None]:
        """Passes a stream on; `before_last` is awaited when it is settled and before the caller sees its end."""
        first: Reservation | None = reservation
        try:
            async with aclosing(batches) as received_batches:  # type: ignore[type-var]
                async for received in received_batches:
                    if pieces := tally.take(received):
                        yield Batch(pieces, first)
                        first = None
            tally.finish()
        except Exception as error:
            if tally.started:
                await self._settle(reservation, *tally.usage(), outcome="provider_failed")
                if pieces := tally.failure(error):
                    yield Batch(pieces, first)
            else:
                await self.release(reservation)
            raise
        except BaseException:
            self._settle_gone(reservation, *tally.usage())
            raise
        receipt = await self._settle(reservation, *tally.usage(), outcome="complete")
        if before_last is not None:
            await before_last()
        yield Batch(tally.last(), first, receipt)

    async def release(self, reservation: Reservation) -> None:
        """Ends a request without charge."""
        step = Release(
            workspace_id=reservation.workspace_id,
            request_id=reservation.request_id,
            owner=self._metering.instance_id,
            day=reservation.day,
            outcome="provider_failed",
        )
        await self._end(step)

    async def _settle(self, reservation: Reservation, usage: Usage, source: UsageSource, *, outcome: str) -> Receipt:
        step = self._settle_step(reservation, usage, source, outcome=outcome)
        return await self._end(step) or _pending_receipt(step, reservation.day)

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

    def _settle_gone(self, reservation: Reservation, usage: Usage, source: UsageSource) -> None:
        self._metering.settle_nowait(self._settle_step(reservation, usage, source, outcome="caller_gone"))

    def _settle_step(self, reservation: Reservation, usage: Usage, source: UsageSource, *, outcome: str) -> Settle:
        return Settle(
            workspace_id=reservation.workspace_id,
            request_id=reservation.request_id,
            usage=usage,
            usage_source=source,
            owner=self._metering.instance_id,
            day=reservation.day,
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
