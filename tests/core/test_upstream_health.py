"""Breaker, latency and load of upstreams, by a clock that a test moves; and all of it under random use."""

from collections.abc import Callable

import pytest
from fakes.candidates import candidate
from fakes.clock import FakeClock
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from quillgate_core import upstream_health
from quillgate_core.routing import Candidate
from quillgate_core.upstream_health import FIRST_OPEN_S, LAST_OPEN_S, MIN_REQUESTS, Attempt, UpstreamHealth

A = candidate("a")
B = candidate("b")


@pytest.fixture
def clock() -> FakeClock:
    """A clock that stands still."""
    return FakeClock()


@pytest.fixture
def health(clock: FakeClock) -> UpstreamHealth:
    """Nothing is known yet; breakers open without jitter."""
    return UpstreamHealth(clock=clock, chance=lambda: 0.0)


def begin(health: UpstreamHealth, asked: Candidate = A) -> Attempt:
    """Begin an attempt that must be let through."""
    attempt = health.begin(asked)
    assert attempt is not None
    return attempt


def fail(health: UpstreamHealth, times: int, asked: Candidate = A) -> None:
    """Fail so many requests, one after the other."""
    for _ in range(times):
        begin(health, asked).fail()


def succeed(health: UpstreamHealth, times: int, asked: Candidate = A) -> None:
    """Answer so many requests, one after the other."""
    for _ in range(times):
        begin(health, asked).succeed()


def test_nothing_is_known_at_first(health: UpstreamHealth) -> None:
    """Looking makes nothing up and leaves nothing behind."""
    view = health.view(A)
    assert (view.breaker, view.in_flight, view.latency_s, view.recent_requests) == ("closed", 0, 0.0, 0)


def test_breaker_opens_at_half_of_twenty(health: UpstreamHealth) -> None:
    """19 failures do nothing, 10 of 20 open it: then it lets nothing through and says for how long."""
    succeed(health, MIN_REQUESTS // 2)
    fail(health, MIN_REQUESTS // 2 - 1)
    assert health.view(A).breaker == "closed"
    fail(health, 1)
    view = health.view(A)
    assert (view.breaker, view.closed_for_s) == ("open", FIRST_OPEN_S)
    assert (view.recent_requests, view.recent_failures) == (20, 10)
    assert health.begin(A) is None
    assert health.begin(B) is not None


def test_few_failures_open_nothing(health: UpstreamHealth) -> None:
    """Neither too few requests nor less than half of many."""
    fail(health, MIN_REQUESTS - 1)
    assert health.view(A).breaker == "closed"
    for _ in range(50):
        succeed(health, 2, B)
        fail(health, 1, B)
    assert health.view(B).breaker == "closed"


def test_sudden_death_under_load_is_noticed_at_once(health: UpstreamHealth) -> None:
    """20 failures in a row open it, however many answered within the same second."""
    succeed(health, 500)
    fail(health, MIN_REQUESTS - 1)
    assert health.view(A).breaker == "closed"
    fail(health, 1)
    assert health.view(A).breaker == "open"


def test_trouble_is_not_averaged_away(health: UpstreamHealth, clock: FakeClock) -> None:
    """Half of the requests of a shorter time are enough: good seconds before do not keep it closed."""
    for _ in range(8):
        succeed(health, 100)
        clock.now_s += 1
    for _ in range(MIN_REQUESTS // 2):
        assert health.view(A).breaker == "closed"
        succeed(health, 1)
        fail(health, 1)
    assert health.view(A).breaker == "open"


def test_a_run_of_failures_must_be_recent(health: UpstreamHealth, clock: FakeClock) -> None:
    """One failure a minute is a run for ever, but no 20 within 10 s."""
    for _ in range(3 * MIN_REQUESTS):
        fail(health, 1)
        clock.now_s += 60
    assert health.view(A).breaker == "closed"


def test_old_failures_are_forgotten(health: UpstreamHealth, clock: FakeClock) -> None:
    """Only the last 10 s count."""
    fail(health, MIN_REQUESTS - 1)
    clock.now_s += 10
    fail(health, 1)
    view = health.view(A)
    assert (view.breaker, view.recent_requests, view.recent_failures) == ("closed", 1, 1)


def test_half_open_lets_one_probe_through(health: UpstreamHealth, clock: FakeClock) -> None:
    """After its time one request goes there, and no other as long as it has no answer."""
    fail(health, MIN_REQUESTS)
    clock.now_s += FIRST_OPEN_S
    assert (health.view(A).breaker, health.view(A).closed_for_s) == ("half_open", 0.0)
    probe = begin(health)
    assert (health.view(A).breaker, health.view(A).closed_for_s) == ("half_open", 1.0)
    assert health.begin(A) is None
    probe.succeed()
    view = health.view(A)
    assert (view.breaker, view.recent_requests) == ("closed", 0)
    fail(health, MIN_REQUESTS - 1)
    assert health.view(A).breaker == "closed"


def test_probe_that_speaks_closes_the_breaker(health: UpstreamHealth, clock: FakeClock) -> None:
    """The end of a long stream is not waited for; how it ends counts like that of any other."""
    fail(health, MIN_REQUESTS)
    clock.now_s += FIRST_OPEN_S
    probe = begin(health)
    clock.now_s += 0.25
    probe.note_output()
    view = health.view(A)
    assert (view.breaker, view.in_flight, view.latency_s) == ("closed", 1, 0.25)
    begin(health).succeed()
    probe.fail()
    view = health.view(A)
    assert (view.breaker, view.recent_requests, view.recent_failures) == ("closed", 2, 1)


def test_probe_that_has_spoken_is_one_of_many(health: UpstreamHealth, clock: FakeClock) -> None:
    """Its late end does not free the place of the next probe."""
    fail(health, MIN_REQUESTS)
    clock.now_s += FIRST_OPEN_S
    spoke = begin(health)
    spoke.note_output()
    fail(health, MIN_REQUESTS)
    clock.now_s += FIRST_OPEN_S
    begin(health)
    spoke.succeed()
    assert health.view(A).breaker == "half_open"
    assert health.begin(A) is None


def test_failed_probes_double_the_time(health: UpstreamHealth, clock: FakeClock) -> None:
    """5, 10, 20, 40 and then always 60 s; after a good one it starts again at 5."""
    fail(health, MIN_REQUESTS)
    seen = []
    for _ in range(6):
        seen.append(health.view(A).closed_for_s)
        clock.now_s += seen[-1]
        begin(health).fail()
    assert seen == [FIRST_OPEN_S, 10, 20, 40, LAST_OPEN_S, LAST_OPEN_S]
    clock.now_s += LAST_OPEN_S
    begin(health).succeed()
    fail(health, MIN_REQUESTS)
    assert health.view(A).closed_for_s == FIRST_OPEN_S


def test_abandoned_probe_frees_its_place(health: UpstreamHealth, clock: FakeClock) -> None:
    """A caller that goes away says nothing of the upstream, and the next request is the probe."""
    fail(health, MIN_REQUESTS)
    clock.now_s += FIRST_OPEN_S
    begin(health).abandon()
    assert health.view(A).breaker == "half_open"
    begin(health).succeed()
    assert health.view(A).breaker == "closed"


def test_late_verdicts_move_no_open_breaker(health: UpstreamHealth, clock: FakeClock) -> None:
    """What was sent before it opened neither closes it nor holds it open longer."""
    good, bad = begin(health), begin(health)
    fail(health, MIN_REQUESTS)
    good.succeed()
    assert health.view(A).breaker == "open"
    clock.now_s += FIRST_OPEN_S
    bad.fail()
    assert health.view(A).breaker == "half_open"


def test_opening_is_spread_in_time(clock: FakeClock) -> None:
    """Replicas that saw the same do not probe at the same moment."""
    health = UpstreamHealth(clock=clock, chance=lambda: 1.0)
    fail(health, MIN_REQUESTS)
    assert health.view(A).closed_for_s == pytest.approx(FIRST_OPEN_S * 1.1)


@pytest.mark.parametrize("end", [Attempt.succeed, Attempt.fail, Attempt.abandon])
def test_attempts_end_once(health: UpstreamHealth, end: Callable[[Attempt], None]) -> None:
    """Whatever is said after the first end changes nothing."""
    attempt = begin(health)
    assert health.view(A).in_flight == health.view(A).account_in_flight == 1
    end(attempt)
    ended = health.view(A)
    assert ended.in_flight == ended.account_in_flight == 0
    attempt.succeed()
    attempt.fail(cool_s=9.0)
    attempt.abandon()
    attempt.note_output()
    assert health.view(A) == ended


def test_providers_have_a_limit_for_all_their_models(health: UpstreamHealth) -> None:
    """The limit is of the account: other models count, another workspace's key does not."""
    limited = candidate("a", max_in_flight=1)
    first = begin(health, limited)
    assert health.begin(limited) is None
    assert health.begin(candidate("a", max_in_flight=1, owner="ws")) is not None
    first.abandon()
    assert health.begin(limited) is not None


def test_a_workspace_s_trouble_is_its_own(health: UpstreamHealth) -> None:
    """The breaker of one's own key is not that of the gateway's."""
    fail(health, MIN_REQUESTS, candidate("a", owner="ws_1"))
    assert health.view(candidate("a", owner="ws_1")).breaker == "open"
    assert health.view(A).breaker == health.view(candidate("a", owner="ws_2")).breaker == "closed"


def test_latency_rises_at_once_and_falls_slowly(health: UpstreamHealth, clock: FakeClock) -> None:
    """Peak-EWMA of the time to the first output; what comes after that takes as long as it likes."""
    attempt = begin(health)
    clock.now_s += 2
    attempt.note_output()
    assert health.view(A).latency_s == 2
    clock.now_s += 5
    attempt.succeed()
    assert 1 < health.view(A).latency_s < 2
    begin(health).succeed()
    assert 1 < health.view(A).latency_s < 2
    clock.now_s += 100
    assert health.view(A).latency_s < 0.001


def test_failing_fast_does_not_look_fast(health: UpstreamHealth) -> None:
    """An upstream that refuses at once must not win over one that works."""
    begin(health).fail()
    assert health.view(A).latency_s == upstream_health.FAILURE_LATENCY_S


def test_waiting_in_vain_counts_while_it_lasts(health: UpstreamHealth, clock: FakeClock) -> None:
    """One that hangs looks as slow as its oldest request is old, before that has failed, and also afterwards."""
    waiting, speaking = begin(health), begin(health)
    clock.now_s += 3
    speaking.note_output()
    clock.now_s += 4
    assert health.view(A).latency_s == 7
    waiting.abandon()
    assert health.view(A).latency_s == 7
    speaking.abandon()
    assert health.view(A).latency_s == 7


def test_silence_of_many_is_noticed_before_they_give_up(health: UpstreamHealth, clock: FakeClock) -> None:
    """20 that wait, none answered for 2 s, or half a second where its latency is known: it seems to hang.

    One output, from whomever, proves that it does not.
    """
    waiting = [begin(health) for _ in range(MIN_REQUESTS)]
    clock.now_s += 2
    assert health.view(A).silent_s == 0
    clock.now_s += 0.5
    assert health.view(A).silent_s == 2.5
    extra = begin(health)
    clock.now_s += 0.01
    extra.note_output()
    clock.now_s += 0.4
    assert health.view(A).silent_s == 0
    clock.now_s += 0.2
    assert health.view(A).silent_s == pytest.approx(0.6)
    waiting.pop().abandon()
    assert health.view(A).silent_s == 0


def test_silence_is_measured_by_what_is_usual(health: UpstreamHealth, clock: FakeClock) -> None:
    """Where answers take 10 s, half a minute is nothing unusual yet, whatever failures count as."""
    slow = begin(health)
    clock.now_s += 10
    slow.succeed()
    running = [begin(health) for _ in range(MIN_REQUESTS)]
    begin(health).fail()
    clock.now_s += 30
    assert health.view(A).silent_s == 0
    clock.now_s += 11
    assert health.view(A).silent_s == 41
    for attempt in running:
        attempt.abandon()


def test_cooling_is_as_long_as_was_asked_for(health: UpstreamHealth, clock: FakeClock) -> None:
    """The longest request of an upstream counts, and it ends."""
    begin(health).fail(cool_s=4.0)
    begin(health).fail(cool_s=1.0)
    assert health.view(A).cooling_s == 4
    clock.now_s += 5
    assert health.view(A).cooling_s == 0


def test_memory_is_bounded(health: UpstreamHealth) -> None:
    """Among very many, those that are idle and well are forgotten; what is under way stays counted."""
    running = begin(health)
    fail(health, MIN_REQUESTS, B)
    for number in range(upstream_health.MAX_UPSTREAMS):
        begin(health, candidate(str(number))).succeed()
    assert health.view(candidate("0")).recent_requests == 0
    assert health.view(A).in_flight == 1
    assert health.view(B).breaker == "open"
    running.succeed()
    assert health.view(A).in_flight == 0


class HealthMachine(RuleBasedStateMachine):
    """Random traffic to two upstreams of one limited provider each, against a count kept beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.health = UpstreamHealth(clock=self.clock, chance=lambda: 0.0)
        self.candidates = [candidate("a", max_in_flight=30), candidate("b")]
        self.running: list[tuple[Candidate, Attempt]] = []

    @rule(which=st.integers(0, 1))
    def begin(self, which: int) -> None:
        asked = self.candidates[which]
        before = self.health.view(asked)
        attempt = self.health.begin(asked)
        is_full = bool(asked.account.max_in_flight) and before.account_in_flight >= asked.account.max_in_flight
        assert (attempt is None) == (before.closed_for_s > 0 or is_full)
        if attempt is not None:
            self.running.append((asked, attempt))

    @precondition(lambda self: self.running)
    @rule(data=st.data(), how=st.sampled_from(["succeed", "fail", "abandon", "note_output"]))
    def move(self, data: st.DataObject, how: str) -> None:
        number = data.draw(st.integers(0, len(self.running) - 1))
        _, attempt = self.running[number]
        getattr(attempt, how)()
        if how != "note_output":
            del self.running[number]
            getattr(attempt, how)()

    @rule(which=st.integers(0, 1), times=st.integers(1, 25), fails=st.booleans())
    def burst(self, which: int, times: int, fails: bool) -> None:
        for _ in range(times):
            attempt = self.health.begin(self.candidates[which])
            if attempt is None:
                break
            (attempt.fail if fails else attempt.succeed)()

    @rule(seconds=st.sampled_from([0.3, 1.0, 5.0, 11.0, 61.0]))
    def wait(self, seconds: float) -> None:
        self.clock.now_s += seconds

    @invariant()
    def counts_agree(self) -> None:
        for asked in self.candidates:
            running = [attempt for other, attempt in self.running if other is asked]
            view = self.health.view(asked)
            assert view.in_flight == view.account_in_flight == len(running)
            assert 0 <= view.recent_failures <= view.recent_requests
            assert view.latency_s >= 0
            assert (view.closed_for_s > 0) <= (view.breaker != "closed")
            assert 0 <= view.closed_for_s <= LAST_OPEN_S

    @invariant()
    def a_breaker_that_is_not_closed_lets_one_through_at_most(self) -> None:
        for asked in self.candidates:
            if self.health.view(asked).breaker != "half_open":
                continue
            first = self.health.begin(asked)
            assert self.health.begin(asked) is None
            if first is not None:
                first.abandon()


TestHealthMachine = HealthMachine.TestCase
TestHealthMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
