"""Sends one request to one candidate after another until one gives output, and keeps score of each.

    failed before any output     the next candidate, while attempts, time and the retry budget last
    asks to wait a moment        waits, if nobody else can be asked and it is at most 5 s
    failed after output          raised: the caller has seen something
    caller gone                  raised: nobody is to blame; a provider that drains is read on, and nobody else asked

It must not reserve, settle or know what is sent; it belongs to one request.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any, Final, Generic, TypeVar

from quillgate_core.deadlines import Deadlines, Limit
from quillgate_core.errors import (
    InvalidRequest,
    Overloaded,
    ProviderCredentialRejected,
    ProviderError,
    ProviderRejected,
    ProviderTimeout,
    ProviderUnavailable,
)
from quillgate_core.router import Router
from quillgate_core.routing import Candidate
from quillgate_core.upstream_health import Attempt

MAX_WAIT_S: Final = 5.0
"""The longest `Retry-After` that is waited for."""

WAIT_JITTER: Final = 0.25
"""Such a wait is longer by up to this share, so that those who wait together do not come back together."""

PlanT = TypeVar("PlanT")
AnswerT = TypeVar("AnswerT")
BatchT = TypeVar("BatchT")
PieceT = TypeVar("PieceT")

Prepare = Callable[[Candidate], PlanT | None]
"""Translates the request for a candidate; None, or InvalidRequest: it cannot be served there."""


class Failover(Generic[PlanT]):
    """The attempts of one request; `candidate` and `plan` are those of the last one."""

    def __init__(
        self,
        router: Router,
        candidate: Candidate,
        plan: PlanT,
        rest: Iterator[Candidate],
        prepare: Prepare[PlanT],
        *,
        may_drain: bool = False,
        deadlines: Deadlines | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._router = router
        self.candidate = candidate
        self.plan = plan
        self._rest = rest
        self._prepare = prepare
        self._chance = chance
        self._deadlines = deadlines or router.deadlines
        self._expire_time = asyncio.get_running_loop().time() + self._deadlines.timeout_s
        self._attempts = 0
        self._attempt: Attempt | None = None
        self.may_drain = may_drain
        """Whether one of the candidates may be read on when the caller leaves."""
        self.is_left = False
        """Whether the caller has left a provider that is read on."""
        router.budget.pay_in()

    async def answer(self, send: Callable[[PlanT], Awaitable[AnswerT]]) -> AnswerT:
        """Returns the whole answer of the first candidate that gives one; raises the last failure."""
        attempt = self._begin()
        while True:
            try:
                with self._limit():
                    answer = await send(self.plan)
            except Exception as error:
                error = self._judge(attempt, error)
                following = await self._go_on(error)
                if following is None:
                    raise error
                attempt = following
            except BaseException:
                attempt.abandon()
                raise
            else:
                attempt.succeed()
                return answer

    async def open(
        self,
        send: Callable[[PlanT], AsyncIterator[BatchT]],
        *,
        take: Callable[[PlanT, BatchT], Sequence[PieceT]],
        finish: Callable[[PlanT], None],
    ) -> tuple[Sequence[PieceT], AsyncIterator[BatchT] | None]:
        """Returns the first output of the first candidate that gives some, and the rest of its stream.

        `take` makes output of a batch, perhaps none: as long as there is none, another candidate may answer. A stream
        that ends before is accepted by `finish`, and then has no rest, or raised by it. Whoever reads the rest must
        close it, and `end` this, whatever happened.
        """
        attempt = self._begin()
        while True:
            batches = send(self.plan)
            try:
                with self._limit():
                    async for batch in batches:
                        if pieces := take(self.plan, batch):
                            attempt.note_output()
                            return pieces, batches
                    finish(self.plan)
                    return (), None
            except Exception as error:
                error = self._judge(attempt, error)
                await _close(batches)
                following = await self._go_on(error)
                if following is None:
                    raise error
                attempt = following
            except BaseException:
                attempt.abandon()
                await _close(batches)
                raise

    def end(self, error: BaseException | None = None) -> None:
        """Ends what `open` has begun: with the failure of the stream, or None for a whole one."""
        if self._attempt is None:
            return
        if error is None:
            self._attempt.succeed()
        else:
            _end(self._attempt, error)

    @property
    def drains(self) -> bool:
        """Whether a provider is under way that shall be read to its usage when the caller leaves."""
        is_under_way = self._attempt is not None and not self._attempt.is_ended
        return is_under_way and self.may_drain and self.candidate.account.drains

    def leave(self) -> None:
        """Takes note that the caller has left: nobody else is asked from now on."""
        self.is_left = True

    def _limit(self) -> Limit:
        """Returns the time that is left for an attempt: for the first one, which most have only, all of it."""
        if self._attempts == 1:
            return self._deadlines.limit()
        return Deadlines(max(0.0, self._expire_time - asyncio.get_running_loop().time())).limit()

    def _begin(self) -> Attempt:
        """Begins an attempt at the plan's candidate, or at the next that can be asked; raises Overloaded."""
        attempt = self._enter(self.candidate, self.plan) or self._advance()
        if attempt is None:
            model = self.candidate.model.id
            raise Overloaded(f"No upstream of the model `{model}` is available right now. Please retry shortly.")
        return attempt

    def _judge(self, attempt: Attempt, error: Exception) -> Exception:
        """Ends a failed attempt, before anything is awaited, and returns the error as callers know it."""
        if isinstance(error, TimeoutError):
            error = ProviderTimeout("No provider answered in time.", provider=self.candidate.upstream.provider)
        _end(attempt, error)
        return error

    async def _go_on(self, error: Exception) -> Attempt | None:
        """Begins the next attempt; None: the error of the last one is the request's."""
        if not self._may_retry(error) or not self._router.budget.take():
            return None
        attempt = self._advance(own_only=_keeps_to_own(self.candidate, error)) or await self._wait(error)
        if attempt is None:
            self._router.budget.give_back()
        return attempt

    def _may_retry(self, error: Exception) -> bool:
        if self.is_left or isinstance(error, ProviderRejected) or not isinstance(error, ProviderError | Overloaded):
            return False
        return self._attempts < self._router.max_attempts and self._has_time(0)

    def _has_time(self, wait_s: float) -> bool:
        return asyncio.get_running_loop().time() + wait_s < self._expire_time

    def _advance(self, *, own_only: bool = False) -> Attempt | None:
        """Begins at the next candidate that the request can be translated for; None without one."""
        for candidate in self._rest:
            if own_only and not candidate.owner:
                continue
            try:
                plan = self._prepare(candidate)
            except InvalidRequest:
                continue
            if plan is not None and (attempt := self._enter(candidate, plan)) is not None:
                return attempt
        return None

    async def _wait(self, error: Exception) -> Attempt | None:
        """Begins once more at the same candidate, if it said when; None if that is too long or not worth it."""
        wait_s = _retry_after_s(error) * (1 + WAIT_JITTER * self._chance())
        is_open = self._router.health.view(self.candidate).breaker == "open"
        if not 0 < _retry_after_s(error) <= MAX_WAIT_S or not self._has_time(wait_s) or is_open:
            return None
        await asyncio.sleep(wait_s)
        return self._enter(self.candidate, self._prepare(self.candidate))

    def _enter(self, candidate: Candidate, plan: PlanT | None) -> Attempt | None:
        """Begins an attempt; None when the breaker, or the limit of the provider, does not let it through."""
        attempt = self._router.health.begin(candidate) if plan is not None else None
        if attempt is not None:
            assert plan is not None
            self.candidate, self.plan, self._attempt = candidate, plan, attempt
            self._attempts += 1
        return attempt


def _end(attempt: Attempt, error: BaseException) -> None:
    """Ends an attempt: a provider that refuses the request, or a workspace's key, is well; our own faults blame nobody.

    A refusal in the middle of an answer is no proof of health.
    """
    if isinstance(error, ProviderRejected) and not attempt.has_output:
        attempt.succeed()
    elif isinstance(error, ProviderUnavailable | ProviderTimeout | Overloaded):
        attempt.fail(cool_s=_retry_after_s(error))
    else:
        attempt.abandon()


def _keeps_to_own(candidate: Candidate, error: Exception) -> bool:
    """Whether only other keys of the workspace may follow: one that is refused is not replaced behind its back."""
    return isinstance(error, ProviderCredentialRejected) and not candidate.allow_fallback


def _retry_after_s(error: BaseException) -> float:
    """Returns how long the provider asks to be left alone; 0 when it did not say."""
    if isinstance(error, Overloaded) and error.is_stated:
        return float(error.metadata["retry_after_s"])
    return 0.0


async def _close(batches: AsyncIterator[Any]) -> None:
    close = getattr(batches, "aclose", None)
    if close is not None:
        await close()
