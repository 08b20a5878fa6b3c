"""Sends one request to one candidate after another until one gives output, and keeps score of each.

    failed before any output     the next candidate, while attempts, time and the retry budget last
    asks to wait a moment        waits, if nobody else can be asked and it is at most 5 s
    failed after output          raised: the caller has seen something
    caller gone                  raised: nobody is to blame

It must not reserve, settle or know what is sent; it belongs to one request.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, Final, Generic, TypeVar

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

TOTAL_S: Final = 600.0
"""How long all attempts together may take to their first output, in seconds."""

MAX_WAIT_S: Final = 5.0
"""The longest `Retry-After` that is waited for."""

WAIT_JITTER: Final = 0.25
"""Such a wait is longer by up to this share, so that those who wait together do not come back together."""

CUT_SHORT: Final = "The provider ended the answer before it was complete."

PlanT = TypeVar("PlanT")
AnswerT = TypeVar("AnswerT")
BatchT = TypeVar("BatchT")

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
        total_s: float = TOTAL_S,
    ) -> None:
        self._router = router
        self.candidate = candidate
        self.plan = plan
        self._rest = rest
        self._prepare = prepare
        self._expire_time = asyncio.get_running_loop().time() + total_s
        self._attempts = 0
        self._attempt: Attempt | None = None
        router.budget.pay_in()

    async def answer(self, send: Callable[[PlanT], Awaitable[AnswerT]]) -> AnswerT:
        """Returns the whole answer of the first candidate that gives one; raises the last failure."""
        while True:
            attempt = self._begin()
            try:
                async with asyncio.timeout_at(self._expire_time):
                    answer = await send(self.plan)
            except Exception as error:
                await self._go_on(attempt, error)
            except BaseException:
                attempt.abandon()
                raise
            else:
                attempt.succeed()
                return answer

    async def open(self, send: Callable[[PlanT], AsyncIterator[BatchT]]) -> tuple[BatchT, AsyncIterator[BatchT]]:
        """Returns the first batch of the first candidate that gives output, and the rest of its stream.

        Whoever reads the rest must close it, and `end` this, whatever happened.
        """
        while True:
            attempt = self._begin()
            batches = send(self.plan)
            try:
                async with asyncio.timeout_at(self._expire_time):
                    first = await anext(batches)
            except StopAsyncIteration:
                error = ProviderUnavailable(CUT_SHORT, provider=self.candidate.upstream.provider)
                await self._go_on(attempt, error)
            except Exception as error:
                await _close(batches)
                await self._go_on(attempt, error)
            except BaseException:
                await _close(batches)
                attempt.abandon()
                raise
            else:
                attempt.note_output()
                return first, batches

    def end(self, error: BaseException | None = None) -> None:
        """Ends what `open` has begun: with the failure of the stream, or None for a whole one."""
        if self._attempt is None:
            return
        if error is None:
            self._attempt.succeed()
        elif isinstance(error, ProviderUnavailable | ProviderTimeout | Overloaded):
            self._attempt.fail()
        else:
            self._attempt.abandon()

    def _begin(self) -> Attempt:
        """Begins an attempt at the plan's candidate, or at the next that can be asked; raises Overloaded."""
        while (attempt := self._router.health.begin(self.candidate)) is None:
            if not self._advance():
                model = self.candidate.model.id
                raise Overloaded(f"No upstream of the model `{model}` is available right now. Please retry shortly.")
        self._attempts += 1
        self._attempt = attempt
        return attempt

    async def _go_on(self, attempt: Attempt, error: Exception) -> None:
        """Makes the next attempt possible, or raises the error of this one."""
        if isinstance(error, TimeoutError):
            error = ProviderTimeout("No provider answered in time.", provider=self.candidate.upstream.provider)
        wait_s = _retry_after_s(error)
        _judge(attempt, error, wait_s)
        if not self._may_retry(error):
            raise error
        pause_s = 0.0 if self._advance() else wait_s * (1 + WAIT_JITTER * random.random())  # noqa: S311 - no secret
        if self.candidate is attempt.candidate and not 0 < wait_s <= MAX_WAIT_S:
            raise error
        if not self._has_time(pause_s) or not self._router.budget.take():
            raise error
        await asyncio.sleep(pause_s)

    def _may_retry(self, error: Exception) -> bool:
        if isinstance(error, ProviderCredentialRejected) and not self.candidate.allow_fallback:
            return False
        if isinstance(error, ProviderRejected) or not isinstance(error, ProviderError | Overloaded):
            return False
        return self._attempts < self._router.max_attempts

    def _has_time(self, wait_s: float) -> bool:
        return asyncio.get_running_loop().time() + wait_s < self._expire_time

    def _advance(self) -> bool:
        """Moves on to the next candidate that the request can be translated for."""
        for candidate in self._rest:
            try:
                plan = self._prepare(candidate)
            except InvalidRequest:
                continue
            if plan is not None:
                self.candidate, self.plan = candidate, plan
                return True
        return False


def _judge(attempt: Attempt, error: Exception, wait_s: float) -> None:
    """Ends an attempt: a provider that refuses the request, or a workspace's key, is well."""
    if isinstance(error, ProviderRejected):
        attempt.succeed()
    elif isinstance(error, ProviderCredentialRejected | InvalidRequest):
        attempt.abandon()
    else:
        attempt.fail(cool_s=wait_s)


def _retry_after_s(error: Exception) -> float:
    """Returns how long the provider asks to be left alone; 0 when it did not say."""
    if isinstance(error, Overloaded) and error.is_stated:
        return float(error.metadata["retry_after_s"])
    return 0.0


async def _close(batches: AsyncIterator[Any]) -> None:
    close = getattr(batches, "aclose", None)
    if close is not None:
        await close()
