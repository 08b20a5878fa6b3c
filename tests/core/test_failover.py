"""One request's way from upstream to upstream: who is asked next, who is blamed, and that nothing stays under way."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from fakes.candidates import candidate
from fakes.clock import FakeClock

from quillgate_core.catalogue import Catalogue
from quillgate_core.deadlines import Deadlines
from quillgate_core.errors import (
    InvalidRequest,
    Overloaded,
    ProviderCredentialRejected,
    ProviderError,
    ProviderRejected,
    ProviderTimeout,
    ProviderUnavailable,
    QuillgateError,
)
from quillgate_core.failover import Failover
from quillgate_core.retry_budget import RetryBudget
from quillgate_core.router import Router
from quillgate_core.routing import Candidate
from quillgate_core.upstream_health import MIN_REQUESTS, UpstreamHealth

A, B, C = candidate("a"), candidate("b", priority=1), candidate("c", priority=2)
UNAVAILABLE = ProviderUnavailable("down", provider="a")
TIMEOUT = ProviderTimeout("slow", provider="a")
BUSY = Overloaded("busy")
REJECTED = ProviderRejected("no", provider="a", code="c", param="p")
KEY_REFUSED = ProviderCredentialRejected("a")
INVALID = InvalidRequest("never")
BUG = RuntimeError("a bug of ours")

RETRIED = [UNAVAILABLE, TIMEOUT, BUSY]
FINAL = [REJECTED, KEY_REFUSED, INVALID, BUG]

#: What an upstream does: give output, give a batch without output, wait, or fail. It ends after its last step.
Step = str | None | asyncio.Event | BaseException


def busy(seconds: int) -> Overloaded:
    """A refusal that says when to come back."""
    return Overloaded("busy", retry_after_s=seconds, is_stated=True)


@dataclass
class Scene:
    """A request with upstreams that play `scripts`, one script for each attempt, by provider."""

    scripts: dict[str, list[Sequence[Step]]]
    candidates: Sequence[Candidate] = (A, B)
    max_attempts: int = 2
    unfit: dict[str, Exception | None] = field(default_factory=dict)
    """What preparing for a provider raises, or None where it gives nothing."""
    total_s: float = 30.0
    is_whole: bool = False
    """Whether a stream without output is accepted."""
    asked: list[str] = field(default_factory=list)
    closed: int = 0
    waiting: asyncio.Event = field(default_factory=asyncio.Event)
    clock: FakeClock = field(default_factory=FakeClock)
    budget: RetryBudget = field(default_factory=RetryBudget)
    plans: int = 0

    def __post_init__(self) -> None:
        self.health = UpstreamHealth(clock=self.clock, chance=lambda: 0.0)
        self.router = Router(
            Catalogue([], providers=[]), {}, health=self.health, budget=self.budget, max_attempts=self.max_attempts
        )
        first, *rest = self.candidates
        plan = self._prepare(first)
        assert plan is not None
        self.failover: Failover[str] = Failover(
            self.router, first, plan, iter(rest), self._prepare, deadlines=Deadlines(self.total_s), chance=lambda: 0.0
        )

    def _prepare(self, asked: Candidate) -> str | None:
        provider = asked.upstream.provider
        if provider in self.unfit:
            failure = self.unfit[provider]
            if failure is not None:
                raise failure
            return None
        self.plans += 1
        return f"{provider} {self.plans}"

    async def answer(self) -> str:
        """Ask for one piece."""
        return await self.failover.answer(self._send)

    async def stream(self) -> list[str]:
        """Ask for a stream, read it to its end and end it, as Metered does."""
        got: list[str] = []
        try:
            pieces, rest = await self.failover.open(self._stream, take=self._take, finish=self._finish)
            got += pieces
            if rest is not None:
                async for batch in rest:
                    got += self._take("", batch)
        except BaseException as error:
            self.failover.end(error)
            raise
        self.failover.end()
        return got

    async def ask(self, *, stream: bool) -> str:
        """Ask in one of the two ways and return the text."""
        return "".join(await self.stream()) if stream else await self.answer()

    async def _send(self, plan: str) -> str:
        text = ""
        for step in self._script(plan):
            text += await self._perform(step) or ""
        return text

    async def _stream(self, plan: str) -> AsyncIterator[str | None]:
        try:
            for step in self._script(plan):
                yield await self._perform(step)
        finally:
            self.closed += 1

    def _script(self, plan: str) -> Sequence[Step]:
        provider, _ = plan.split()
        self.asked.append(provider)
        return self.scripts[provider].pop(0)

    async def _perform(self, step: Step) -> str | None:
        if isinstance(step, BaseException):
            raise step
        if isinstance(step, asyncio.Event):
            self.waiting.set()
            await step.wait()
            return None
        return step

    @staticmethod
    def _take(_: str, batch: str | None) -> list[str]:
        return [batch] if batch else []

    def _finish(self, _: str) -> None:
        if not self.is_whole:
            raise ProviderUnavailable("cut", provider="x")

    def counts(self, asked: Candidate = A) -> tuple[int, int]:
        """Verdicts on an upstream: requests and failures. Nothing may be under way anywhere."""
        assert all(self.health.view(other).in_flight == 0 for other in self.candidates)
        view = self.health.view(asked)
        return view.recent_requests, view.recent_failures


WAYS = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


@WAYS
async def test_first_that_answers_is_the_only_one_asked(stream: bool) -> None:
    """A good answer is a good mark, and the others learn nothing."""
    scene = Scene({"a": [["hello"]]})
    assert await scene.ask(stream=stream) == "hello"
    assert (scene.asked, scene.counts(A), scene.counts(B)) == (["a"], (1, 0), (0, 0))
    assert scene.failover.candidate is A


@WAYS
@pytest.mark.parametrize("error", RETRIED, ids=lambda error: type(error).__name__)
async def test_failure_before_output_goes_on(error: Exception, stream: bool) -> None:
    """The next one answers, with a translation of its own; the first has its bad mark."""
    scene = Scene({"a": [[error]], "b": [["hello"]]})
    assert await scene.ask(stream=stream) == "hello"
    assert scene.asked == ["a", "b"]
    assert (scene.counts(A), scene.counts(B)) == ((1, 1), (1, 0))
    assert (scene.failover.candidate, scene.failover.plan) == (B, "b 2")


@WAYS
@pytest.mark.parametrize("error", FINAL, ids=lambda error: type(error).__name__)
async def test_what_no_other_can_mend_is_raised(error: Exception, stream: bool) -> None:
    """A refusal of the request is a good mark; refused keys and faults of ours are none at all."""
    scene = Scene({"a": [[error]]})
    with pytest.raises(type(error)) as caught:
        await scene.ask(stream=stream)
    assert caught.value is error
    assert (scene.asked, scene.counts(A)) == (["a"], (int(error is REJECTED), 0))


@pytest.mark.parametrize("error", [*RETRIED, *FINAL], ids=lambda error: type(error).__name__)
async def test_failure_after_output_is_raised(error: Exception) -> None:
    """The caller has seen something: nobody else is asked, and only who is to blame is blamed."""
    scene = Scene({"a": [["hel", error]]})
    with pytest.raises(type(error)) as caught:
        await scene.stream()
    assert caught.value is error
    assert (scene.asked, scene.counts(A)) == (["a"], (1, 1) if error in RETRIED else (0, 0))
    assert scene.closed == 1


@pytest.mark.parametrize("steps", [[], [None], [None, UNAVAILABLE]], ids=["empty", "no output", "cut"])
async def test_streams_without_output_go_on(steps: Sequence[Step]) -> None:
    """Batches that the caller sees nothing of commit to nobody, and neither does a stream that just ends."""
    scene = Scene({"a": [steps], "b": [[None, "hello", None]]})
    assert await scene.stream() == ["hello"]
    assert (scene.asked, scene.counts(A), scene.counts(B)) == (["a", "b"], (1, 1), (1, 0))
    assert scene.closed == 2


async def test_streams_may_be_whole_without_output() -> None:
    """What gives all of it at its end is accepted by `finish`, and has no rest."""
    scene = Scene({"a": [[None]]}, is_whole=True)
    assert await scene.stream() == []
    assert (scene.asked, scene.counts(A)) == (["a"], (1, 0))


@WAYS
async def test_attempts_are_limited(stream: bool) -> None:
    """Two by default; the error is that of the last."""
    last = ProviderUnavailable("also down", provider="b")
    scene = Scene({"a": [[UNAVAILABLE]], "b": [[last]]}, candidates=(A, B, C))
    with pytest.raises(ProviderUnavailable) as caught:
        await scene.ask(stream=stream)
    assert caught.value is last
    assert scene.asked == ["a", "b"]
    scene = Scene({"a": [[UNAVAILABLE]]}, max_attempts=1)
    with pytest.raises(ProviderUnavailable):
        await scene.ask(stream=stream)
    assert scene.asked == ["a"]


@pytest.mark.parametrize("failure", [None, InvalidRequest("not there")])
async def test_those_that_cannot_serve_it_are_passed_over(failure: Exception | None) -> None:
    """Neither costs an attempt: a request that cannot be translated, or does not fit into what is held."""
    scene = Scene({"a": [[UNAVAILABLE]], "c": [["hello"]]}, candidates=(A, B, C), unfit={"b": failure})
    assert await scene.answer() == "hello"
    assert scene.asked == ["a", "c"]


async def test_those_that_cannot_be_asked_are_passed_over() -> None:
    """A breaker that opened since the request was routed, also when it is that of the first."""
    scene = Scene({"b": [["hello"]]})
    for _ in range(MIN_REQUESTS):
        attempt = scene.health.begin(A)
        assert attempt is not None
        attempt.fail()
    assert await scene.answer() == "hello"
    assert (scene.asked, scene.failover.candidate) == (["b"], B)


async def test_nobody_left_is_overload() -> None:
    """All that was routed to is shut meanwhile: nothing is sent."""
    full = candidate("a", max_in_flight=1)
    scene = Scene({}, candidates=(full,))
    running = scene.health.begin(full)
    assert running is not None
    with pytest.raises(Overloaded) as caught:
        await scene.answer()
    assert not caught.value.is_stated
    running.abandon()
    assert scene.counts(full) == (0, 0)


async def test_error_of_the_last_asked_wins() -> None:
    """That nobody else can be asked hides nothing, and the retry that came to nothing is not paid."""
    scene = Scene({"a": [[UNAVAILABLE]]}, unfit={"b": None}, budget=RetryBudget(share=0, burst=1))
    with pytest.raises(ProviderUnavailable) as caught:
        await scene.answer()
    assert caught.value is UNAVAILABLE
    assert scene.budget.take()


@WAYS
async def test_budget_limits_retries(stream: bool) -> None:
    """Without savings a failure is told as it is."""
    scene = Scene({"a": [[UNAVAILABLE]]}, budget=RetryBudget(share=0, burst=0))
    with pytest.raises(ProviderUnavailable):
        await scene.ask(stream=stream)
    assert scene.asked == ["a"]


async def test_every_request_pays_in() -> None:
    """A tenth of a retry each."""
    budget = RetryBudget(share=1.0, burst=1)
    assert budget.take()
    Scene({}, budget=budget)
    assert budget.take()


@WAYS
async def test_refused_own_key_keeps_to_own_keys(stream: bool) -> None:
    """Another key of the workspace may follow; the gateway's only where the refused one allows it."""
    own, other = candidate("a", owner="ws"), candidate("c", owner="ws")
    scene = Scene({"a": [[KEY_REFUSED]], "c": [["hello"]]}, candidates=(own, B, other))
    assert await scene.ask(stream=stream) == "hello"
    assert scene.asked == ["a", "c"]
    allowing = candidate("a", owner="ws", allow_fallback=True)
    scene = Scene({"a": [[KEY_REFUSED]], "b": [["hello"]]}, candidates=(allowing, B))
    assert await scene.ask(stream=stream) == "hello"
    assert scene.counts(allowing) == (0, 0)
    scene = Scene({"a": [[KEY_REFUSED]]}, candidates=(own, B))
    with pytest.raises(ProviderCredentialRejected):
        await scene.ask(stream=stream)


@WAYS
async def test_short_retry_after_is_waited_for_alone(stream: bool) -> None:
    """With nobody else to ask, the same upstream is asked again, with a fresh translation, no sooner than it said."""
    scene = Scene({"a": [[busy(1)], ["hello"]]}, candidates=(A,))
    loop = asyncio.get_running_loop()
    start_time = loop.time()
    asking = asyncio.create_task(scene.ask(stream=stream))
    await asyncio.sleep(0)
    assert await asking == "hello"
    assert loop.time() - start_time >= 1
    assert (scene.asked, scene.counts(A), scene.failover.plan) == (["a", "a"], (2, 1), "a 2")


async def test_others_are_asked_at_once() -> None:
    """Retry-After keeps this process away from the upstream; the request does not wait."""
    scene = Scene({"a": [[busy(4)]], "b": [["hello"]]})
    async with asyncio.timeout(1):
        assert await scene.answer() == "hello"
    assert (scene.asked, scene.health.view(A).cooling_s) == (["a", "b"], 4)


@pytest.mark.parametrize(
    ("error", "total_s"), [(busy(6), 30.0), (BUSY, 30.0), (busy(5), 4.0)], ids=["long", "unsaid", "past the deadline"]
)
async def test_other_waits_are_the_caller_s(error: Overloaded, total_s: float) -> None:
    """More than 5 s, what nobody said, and what ends after the request: the caller is told."""
    scene = Scene({"a": [[error]]}, candidates=(A,), total_s=total_s)
    async with asyncio.timeout(1):
        with pytest.raises(Overloaded) as caught:
            await scene.answer()
    assert caught.value is error
    assert scene.asked == ["a"]


async def test_no_wait_for_a_breaker_that_has_opened() -> None:
    """After the wait it would not let the request through."""
    scene = Scene({"a": [[busy(2)]]}, candidates=(A,))
    for _ in range(MIN_REQUESTS - 1):
        attempt = scene.health.begin(A)
        assert attempt is not None
        attempt.fail()
    async with asyncio.timeout(1):
        with pytest.raises(Overloaded):
            await scene.answer()


@WAYS
async def test_deadline_is_one_for_all_attempts(stream: bool) -> None:
    """A silent upstream costs the whole time, is blamed, and nobody else is asked after it."""
    scene = Scene({"a": [[asyncio.Event()]]}, total_s=0.05)
    with pytest.raises(ProviderTimeout) as caught:
        await scene.ask(stream=stream)
    assert caught.value.metadata == {"provider": "a"}
    assert (scene.asked, scene.counts(A)) == (["a"], (1, 1))
    assert scene.closed == int(stream)


@WAYS
@pytest.mark.parametrize(
    "scripts",
    [
        {"a": [[asyncio.Event]]},
        {"a": [[None, asyncio.Event]]},
        {"a": [[UNAVAILABLE]], "b": [[asyncio.Event]]},
    ],
    ids=["first", "without output", "second"],
)
async def test_caller_that_leaves_blames_nobody(scripts: dict[str, Any], stream: bool) -> None:
    """Cancelled at any wait: nothing stays under way, and who was waited for has no mark."""
    made = {
        name: [[step() if step is asyncio.Event else step for step in script] for script in played]
        for name, played in scripts.items()
    }
    scene = Scene(made)
    asking = asyncio.create_task(scene.ask(stream=stream))
    await scene.waiting.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    last = {"a": A, "b": B}[scene.asked[-1]]
    assert scene.counts(last) == (0, 0)
    assert scene.closed == (len(scene.asked) if stream else 0)


async def test_caller_that_leaves_after_output_blames_nobody() -> None:
    """The stream has begun: that is all that is known of it."""
    scene = Scene({"a": [["hel", asyncio.Event()]]})
    asking = asyncio.create_task(scene.stream())
    await scene.waiting.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert (scene.counts(A), scene.closed) == ((0, 0), 1)


async def test_caller_that_leaves_while_it_waits_to_come_back() -> None:
    """The failure before was told; the wait leaves nothing behind."""
    scene = Scene({"a": [[busy(5)]]}, candidates=(A,))
    asking = asyncio.create_task(scene.answer())
    while not scene.counts(A)[0]:
        await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert scene.counts(A) == (1, 1)


class _SlowToClose:
    """A stream that fails at once and whose closing takes for ever."""

    def __init__(self, error: Exception | None) -> None:
        self._error = error
        self.closing = asyncio.Event()

    def __aiter__(self) -> "_SlowToClose":
        return self

    async def __anext__(self) -> str:
        if self._error is None:
            await asyncio.Event().wait()
        assert self._error is not None
        raise self._error

    async def aclose(self) -> None:
        self.closing.set()
        await asyncio.Event().wait()


@pytest.mark.parametrize("error", [UNAVAILABLE, None], ids=["failed", "cancelled"])
async def test_cancelled_while_closing_leaves_nothing_under_way(error: Exception | None) -> None:
    """The attempt ends before its stream is closed, which may be interrupted."""
    scene = Scene({})
    stream = _SlowToClose(error)
    opening = asyncio.create_task(scene.failover.open(lambda plan: stream, take=scene._take, finish=scene._finish))
    await asyncio.sleep(0)
    if error is None:
        opening.cancel()
    await stream.closing.wait()
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert scene.counts(A) == ((1, 1) if error else (0, 0))


async def test_fault_in_reading_blames_nobody() -> None:
    """What we cannot read is closed, and raised as it is."""
    scene = Scene({"a": [["hello"]]})

    def take(_: str, batch: str | None) -> list[str]:
        raise BUG

    with pytest.raises(RuntimeError):
        await scene.failover.open(scene._stream, take=take, finish=scene._finish)
    assert (scene.counts(A), scene.closed) == ((0, 0), 1)


def test_ending_what_never_began_does_nothing() -> None:
    """A request that failed before its first attempt has nobody to judge."""

    async def end() -> None:
        scene = Scene({})
        scene.failover.end(UNAVAILABLE)
        scene.failover.end()
        assert scene.counts(A) == (0, 0)

    asyncio.run(end())


def test_rest_of_the_tree_is_decided() -> None:
    """Every leaf of the provider errors stands in one of the two lists above, so that a new one is thought about."""

    def leaves(kind: type[QuillgateError]) -> set[type[QuillgateError]]:
        below = kind.__subclasses__()
        return set().union(*(leaves(sub) for sub in below)) if below else {kind}

    assert leaves(ProviderError) <= {type(error) for error in (*RETRIED, *FINAL)}
