"""What every metered request goes through, whatever its endpoint: reserve, serve, settle. Somebody always settles.

    answered whole               settled with the provider's usage (or an estimate), before the caller sees the end
    refused before dispatch      nothing reserved
    failed before any output     released, no charge
    failed after output          settled with what was observed
    caller gone, at any await    settled with what was observed; the provider's connection is closed, or, where closing
                                 does not stop its bill and the operator says so, read on to its usage
    key lost its right meanwhile settled with what was observed; the provider's connection is closed

It knows neither endpoints nor providers; these give it what to send, by whom, and a Tally of what was used.
"""

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from datetime import date
from typing import Any, Final, Generic, TypeVar

import msgspec

from quillgate_core import failpoint as places
from quillgate_core.counting import Usage, counted_messages, sane
from quillgate_core.deadlines import Deadlines
from quillgate_core.draining import Draining
from quillgate_core.errors import DuplicateRequest, QuillgateError
from quillgate_core.failover import Failover
from quillgate_core.failpoint import Failpoint, no_failpoint
from quillgate_core.limits import MESSAGE_LIMITS, LimitState
from quillgate_core.metering import Metering
from quillgate_core.principal import Principal
from quillgate_core.reservation import Note, Receipt, Release, Reservation, Reserve, Settle, UsageSource
from quillgate_core.routing import Candidate
from quillgate_core.running import Running
from quillgate_core.tally import Plan, Used

log = logging.getLogger(__name__)

SETTLE_WAIT_S = 2.0
"""How long an answer waits for its settlement when the database is away."""

AnswerT = TypeVar("AnswerT")
SentPlanT = TypeVar("SentPlanT")
PlanT = TypeVar("PlanT", bound=Plan[Any, Any])

_END: Final = object()


class Batch(msgspec.Struct, Generic[AnswerT], frozen=True):
    """What is passed on at once: pieces, the reservation with the first ones, the receipt with the last."""

    pieces: Sequence[AnswerT]
    reservation: Reservation | None = None
    receipt: Receipt | None = None
    upstream: str = ""
    """Who answers: with the reservation."""


class Metered:
    """Reserves and ends requests; their rows in the ledger are owned by this core instance."""

    def __init__(
        self,
        metering: Metering,
        *,
        running: Running | None = None,
        draining: Draining | None = None,
        settle_wait_s: float = SETTLE_WAIT_S,
        failpoint: Failpoint = no_failpoint,
    ) -> None:
        self._metering = metering
        self._running = running or Running()
        self._draining = draining or Draining()
        self._failpoint = failpoint
        self._settling = Deadlines(settle_wait_s)

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
        hold_tokens: int = 0,
        min_hold_tokens: int = 0,
        byok: bool = False,
        credential_revision: int | None = None,
    ) -> Reservation:
        """Reserves, as the last thing before dispatch: until then a refusal costs nothing.

        Raises as Metering.reserve does, and DuplicateRequest for a request id that was used before.
        """
        self._failpoint(places.RESERVE)
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
                byok=byok,
                credential_revision=credential_revision,
                hold_tokens=hold_tokens,
                min_hold_tokens=min_hold_tokens,
            )
        )
        if reservation.replayed:
            raise DuplicateRequest(request_id)
        self._failpoint(places.RESERVED)
        return reservation

    async def answer(
        self,
        reservation: Reservation,
        failover: Failover[SentPlanT],
        send: Callable[[SentPlanT], Awaitable[AnswerT]],
        *,
        used: Callable[[AnswerT], Used],
        observed: Usage,
        upstream_id: Callable[[AnswerT], str] = lambda answer: "",
    ) -> tuple[AnswerT, Receipt]:
        """Sends, awaits a whole answer and settles what it `used`.

        `observed` is charged when the caller goes away or its key loses its right, which raises what a new request
        would be refused with. `upstream_id` returns the provider's own id of the answer; it is asked before `used`,
        which may change it.
        """
        work = self._answer(reservation, failover, send, used=used, observed=observed, upstream_id=upstream_id)
        return await (self._draining.answer(work, failover) if failover.may_drain else work)

    async def _answer(
        self,
        reservation: Reservation,
        failover: Failover[SentPlanT],
        send: Callable[[SentPlanT], Awaitable[AnswerT]],
        *,
        used: Callable[[AnswerT], Used],
        observed: Usage,
        upstream_id: Callable[[AnswerT], str],
    ) -> tuple[AnswerT, Receipt]:
        run = self._running.enter(reservation, lambda: failover.candidate)
        try:
            with run:
                answer = await failover.answer(send)
            told_id = upstream_id(answer)
            usage, source = used(answer)
        except Exception as error:
            if error is run.error:
                await self._settle(reservation, failover, observed, "estimate", outcome="cut")
            else:
                await self.release(reservation)
            raise
        except BaseException:
            self._settle_gone(reservation, failover, observed, "estimate")
            raise
        finally:
            self._running.leave(run)
        self._failpoint(places.WHOLE)
        receipt = await self._settle(reservation, failover, usage, source, outcome=_whole(failover), told_id=told_id)
        return answer, receipt

    def stream(
        self,
        reservation: Reservation,
        failover: Failover[PlanT],
        send: Callable[[PlanT], AsyncIterator[Any]],
        *,
        before_last: Callable[[], Awaitable[None]] | None = None,
    ) -> AsyncGenerator[Batch[Any], None]:
        """Sends, and passes the stream on; `before_last` is awaited when it is settled and before its end is seen.

        A key that loses its right ends it with what a new request would be refused with.
        """
        batches = self._stream(reservation, failover, send, before_last=before_last)
        return self._draining.relay(batches, failover) if failover.may_drain else batches

    async def _stream(
        self,
        reservation: Reservation,
        failover: Failover[PlanT],
        send: Callable[[PlanT], AsyncIterator[Any]],
        *,
        before_last: Callable[[], Awaitable[None]] | None,
    ) -> AsyncGenerator[Batch[Any], None]:
        first: Reservation | None = reservation
        run = self._running.enter(reservation, lambda: failover.candidate)
        try:
            with run:
                pieces, rest = await failover.open(
                    send,
                    take=lambda plan, received: plan.tally.take(received),
                    finish=lambda plan: plan.tally.finish(),
                )
            upstream, tally = failover.candidate.name, failover.plan.tally
            if rest is not None:
                async with aclosing(rest) as batches:  # type: ignore[type-var]
                    self._note(reservation, failover)
                    self._failpoint(places.FIRST_OUTPUT)
                    yield Batch(pieces, first, upstream=upstream)
                    first = None
                    while True:
                        with run:  # raises what cuts the request
                            received = await anext(batches, _END)
                        if received is _END:
                            break
                        self._failpoint(places.MORE_OUTPUT)
                        if pieces := tally.take(received):
                            yield Batch(pieces, upstream=upstream)
                tally.finish()
        except Exception as error:
            failover.end(error)
            tally = failover.plan.tally
            if tally.started or error is run.error:
                outcome = "cut" if error is run.error else "provider_failed"
                await self._settle(reservation, failover, *tally.usage(), outcome=outcome)
            else:
                await self.release(reservation)
            if tally.started and (pieces := tally.failure(error)):
                yield Batch(pieces, first, upstream=failover.candidate.name)
            raise
        except BaseException as error:
            failover.end(error)
            self._settle_gone(reservation, failover, *failover.plan.tally.usage())
            raise
        finally:
            self._running.leave(run)
        failover.end()
        self._failpoint(places.WHOLE)
        receipt = await self._settle(reservation, failover, *tally.usage(), outcome=_whole(failover))
        if before_last is not None and not failover.is_left:
            await before_last()
        yield Batch(tally.last(), first, receipt, upstream)

    async def release(self, reservation: Reservation) -> None:
        """Ends a request without charge."""
        step = Release(
            workspace_id=reservation.workspace_id,
            request_id=reservation.request_id,
            owner=self._metering.instance_id,
            day=reservation.day,
            outcome="provider_failed",
            key_id=_limited_key_id(reservation),
        )
        self._failpoint(places.RELEASE)
        await self._end(step)
        self._failpoint(places.RELEASED)

    def _note(self, reservation: Reservation, failover: Failover[Any]) -> None:
        """Writes down who answers, where true usage can be asked for should this process die."""
        candidate, upstream_id = failover.candidate, failover.plan.tally.upstream_id
        if candidate.account.usage_lookup is None or not upstream_id:
            return
        self._metering.note_nowait(
            Note(
                workspace_id=reservation.workspace_id,
                request_id=reservation.request_id,
                upstream=candidate.upstream.provider,
                upstream_request_id=upstream_id,
                owner=self._metering.instance_id,
            )
        )

    async def _settle(
        self,
        reservation: Reservation,
        failover: Failover[Any],
        usage: Usage,
        source: UsageSource,
        *,
        outcome: str,
        told_id: str = "",
    ) -> Receipt:
        step = self._settle_step(reservation, failover, usage, source, outcome=outcome, told_id=told_id)
        receipt = await self._end(step) or _pending_receipt(step, reservation.day)
        self._failpoint(places.SETTLED)
        limits = tuple(_after(limit, reservation, receipt) for limit in reservation.limits)
        return msgspec.structs.replace(receipt, upstream=failover.candidate.name, limits=limits)

    async def _end(self, step: Settle | Release) -> Receipt | None:
        """Ends the request durably, waiting a moment so that a caller who looks finds nothing held.

        None when that takes too long (it lands later) or cannot be done, as when the hold was charged meanwhile. It
        raises nothing: the caller gets its answer, or the error that ended the request, in any case.
        """
        end = self._metering.settle(step) if isinstance(step, Settle) else self._metering.release(step)
        try:
            with self._settling.limit():
                return await end
        except TimeoutError:
            log.warning("request %s is ended later: the database is away", step.request_id)
        except QuillgateError as error:
            log.error("request %s could not be ended: %s", step.request_id, error.message)
        return None

    def _settle_gone(
        self, reservation: Reservation, failover: Failover[Any], usage: Usage, source: UsageSource
    ) -> None:
        self._metering.settle_nowait(self._settle_step(reservation, failover, usage, source, outcome="caller_gone"))

    def _settle_step(
        self,
        reservation: Reservation,
        failover: Failover[Any],
        usage: Usage,
        source: UsageSource,
        *,
        outcome: str,
        told_id: str = "",
    ) -> Settle:
        candidate = failover.candidate
        return Settle(
            workspace_id=reservation.workspace_id,
            request_id=reservation.request_id,
            usage=usage,
            usage_source=source,
            owner=self._metering.instance_id,
            day=reservation.day,
            upstream=candidate.upstream.provider,
            upstream_request_id=_upstream_id(failover, told_id),
            byok=candidate.account.byok,
            cost_picodollars=_cost(candidate, usage),
            outcome=outcome,
            key_id=_limited_key_id(reservation),
        )


def _after(limit: LimitState, reservation: Reservation, receipt: Receipt) -> LimitState:
    """Returns a limit with what was held and not used given back."""
    if limit.limit in MESSAGE_LIMITS and not receipt.byok:
        spare = reservation.held_messages - receipt.counted_messages
    elif limit.limit == "key_tokens_per_minute":
        spare = (reservation.held_tokens or 0) - receipt.usage.prompt_tokens - receipt.usage.completion_tokens
    else:
        return limit
    return LimitState(limit.limit, limit.value, max(0, limit.remaining + spare), limit.reset_time)


def _limited_key_id(reservation: Reservation) -> str | None:
    """Returns the key whose tokens per minute the request has held."""
    return reservation.key_id if reservation.held_tokens is not None else None


def _whole(failover: Failover[Any]) -> str:
    """Returns how a whole answer is written down: as drained when nobody was there for its end."""
    return "drained" if failover.is_left else "complete"


def _upstream_id(failover: Failover[Any], told_id: str) -> str:
    """Returns the provider's id of the answer where more can be learnt by it: told by a whole answer, or a stream."""
    if failover.candidate.account.usage_lookup is None:
        return ""
    tally = getattr(failover.plan, "tally", None)
    return told_id or (tally.upstream_id if tally is not None else "")


def _cost(candidate: Candidate, usage: Usage) -> int | None:
    """Returns what the provider charges at its list price; None where that, or the tokens, are not known."""
    price, tokens = candidate.upstream.price, sane(usage)[0]
    if price is None or not tokens.prompt_tokens + tokens.completion_tokens:
        return None
    return price.cost_picodollars(tokens)


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
        byok=step.byok,
        cost_picodollars=step.cost_picodollars,
    )
