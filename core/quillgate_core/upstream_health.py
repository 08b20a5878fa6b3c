"""What this process sees of upstreams: how fast and how busy they are, whether their circuit breaker lets anything in.

A breaker opens when at least half of 20 or more requests failed that ended within the last 10 s or a shorter time up to
now, and lets nothing through for a while; then one request at a time is a probe: if it succeeds the breaker closes, if
it fails it stays open twice as long. State is per process and in memory: each finds out for itself, within a few
requests. It must not know what is sent.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from math import exp
from typing import Final

from quillgate_core.routing import Breaker, Candidate, UpstreamKey, UpstreamView

WINDOW_S: Final = 10
MIN_REQUESTS: Final = 20
FIRST_OPEN_S: Final = 5.0
LAST_OPEN_S: Final = 60.0
OPEN_JITTER: Final = 0.1
DECAY_S: Final = 10.0
"""Time in which an old latency loses two thirds of its weight, while new ones are better."""
FAILURE_LATENCY_S: Final = 5.0
"""What a failure counts as at least, or a server that fails at once would look like the fastest."""
SILENCE_S: Final = 2.0
SILENCE_LATENCIES: Final = 4
MIN_SILENCE_S: Final = 0.5
USUAL_SHARE: Final = 0.1
"""An upstream is silent when `MIN_REQUESTS` wait there and none has had output for four times its latency, but for at
least half a second; for two where its latency is not known."""
MAX_UPSTREAMS: Final = 10_000
"""Most upstreams that are remembered; idle ones are forgotten beyond it."""


@dataclass(slots=True)
class _Second:
    """The requests that ended in one second."""

    second: int = -1
    requests: int = 0
    failures: int = 0


@dataclass(slots=True)
class _Upstream:
    """The state of one upstream; times by the monotonic clock."""

    seconds: list[_Second] = field(default_factory=lambda: [_Second() for _ in range(WINDOW_S)])
    in_flight: int = 0
    latency_s: float = 0.0
    latency_time: float = 0.0
    usual_s: float = 0.0
    """The latency of the last good answers: without what failures count as."""
    failures_in_row: int = 0
    open_until: float = 0.0
    open_s: float = 0.0
    """How long the breaker is open this time; 0: it is closed."""
    is_probing: bool = False
    cool_until: float = 0.0
    heard_time: float = 0.0
    """When the last output came, from any request."""
    waiting: dict["Attempt", float] = field(default_factory=dict)
    """When each attempt began that has no output yet, oldest first."""

    def breaker(self, now: float) -> Breaker:
        if not self.open_s:
            return "closed"
        return "open" if now < self.open_until else "half_open"

    def counts(self, now: float) -> tuple[int, int]:
        """Requests and failures of the window."""
        first = int(now) - WINDOW_S
        recent = [entry for entry in self.seconds if entry.second > first]
        return sum(entry.requests for entry in recent), sum(entry.failures for entry in recent)

    def count(self, now: float, *, failed: bool) -> None:
        entry = self.seconds[int(now) % WINDOW_S]
        if entry.second != int(now):
            entry.second, entry.requests, entry.failures = int(now), 0, 0
        entry.requests += 1
        entry.failures += failed
        self.failures_in_row = self.failures_in_row + 1 if failed else 0

    def is_failing(self, now: float) -> bool:
        """Whether the breaker has to open.

        Measured over the whole window alone, one that dies under load would be asked for 5 s more; measured
        by whole seconds alone, for half a second. A run of failures needs neither.
        """
        requests = failures = 0
        for second in range(int(now), int(now) - WINDOW_S, -1):
            entry = self.seconds[second % WINDOW_S]
            if entry.second == second:
                requests += entry.requests
                failures += entry.failures
            if requests >= MIN_REQUESTS and failures * 2 >= requests:
                return True
        return requests >= MIN_REQUESTS and self.failures_in_row >= MIN_REQUESTS

    def sample(self, now: float, latency_s: float) -> None:
        """Peak-EWMA: what is worse counts at once, what is better little by little."""
        weight = exp(-(now - self.latency_time) / DECAY_S) if self.latency_s else 0.0
        averaged = self.latency_s * weight + latency_s * (1 - weight)
        self.latency_s = max(latency_s, averaged)
        self.latency_time = now

    def answered(self, latency_s: float) -> None:
        """Takes in how long a good answer took to begin."""
        self.usual_s += (latency_s - self.usual_s) * (USUAL_SHARE if self.usual_s else 1.0)

    def latency(self, now: float) -> float:
        """Returns what it is expected to take: at least as long as the oldest request there waits in vain already.

        Or all would go to one that hangs and has not answered yet, because what is not known looks fast.
        """
        return max(now - self._waits_since(now), self._averaged(now))

    def silence(self, now: float) -> float:
        """Returns for how long it has been silent, 0 for one that is not: whether it hangs, nobody knows yet.

        The breaker learns that only when the first requests give up, and until then all others would join them.
        """
        if len(self.waiting) < MIN_REQUESTS:
            return 0.0
        silence_s = now - max(self.heard_time, self._waits_since(now))
        longest_s = max(SILENCE_LATENCIES * self.usual_s, MIN_SILENCE_S) if self.usual_s else SILENCE_S
        return silence_s if silence_s > longest_s else 0.0

    def _waits_since(self, now: float) -> float:
        return next(iter(self.waiting.values()), now)

    def _averaged(self, now: float) -> float:
        return self.latency_s * exp(-max(0.0, now - self.latency_time) / DECAY_S)


class Attempt:
    """One request to one upstream; ended once, by `succeed`, `fail` or `abandon`; further ends do nothing."""

    __slots__ = ("_clock", "_health", "_is_probe", "_start_time", "_upstream", "candidate", "has_output", "is_ended")

    def __init__(self, health: "UpstreamHealth", candidate: Candidate, upstream: _Upstream, *, is_probe: bool) -> None:
        self.candidate = candidate
        self.has_output = False
        self._health = health
        self._upstream = upstream
        self._is_probe = is_probe
        self.is_ended = False
        self._clock = health.clock
        self._start_time = self._clock()
        upstream.waiting[self] = self._start_time

    def note_output(self) -> None:
        """Tells that the first output has come, which is all that a probe needs: its end may be minutes away."""
        if self.is_ended or self.has_output:
            return
        self._hear()
        if self._is_probe:
            self._is_probe = False
            self._health.close(self._upstream)

    def succeed(self) -> None:
        """Ends it: the upstream did what it was asked, or said rightly that the request is no good."""
        if self._end():
            self._hear()
            self._health.count(self._upstream, failed=False, is_probe=self._is_probe)

    def fail(self, *, cool_s: float = 0.0) -> None:
        """Ends it: the upstream is to blame. `cool_s` is how long it asks to be left alone."""
        if self._end():
            now = self._clock()
            if not self.has_output:
                self._upstream.sample(now, max(now - self._start_time, FAILURE_LATENCY_S))
            self._upstream.cool_until = max(self._upstream.cool_until, now + cool_s)
            self._health.count(self._upstream, failed=True, is_probe=self._is_probe)

    def abandon(self) -> None:
        """Ends it without a verdict: the caller has gone, or the fault is nobody's. Waiting in vain counts as slow."""
        if self._end() and not self.has_output:
            now = self._clock()
            if now - self._start_time > self._upstream.latency_s:
                self._upstream.sample(now, now - self._start_time)

    def _hear(self) -> None:
        if not self.has_output:
            self.has_output = True
            self._upstream.waiting.pop(self, None)
            if self._is_probe:
                self._upstream.latency_s = 0.0  # how it was before it recovered says nothing
            now = self._upstream.heard_time = self._clock()
            self._upstream.answered(now - self._start_time)
            self._upstream.sample(now, now - self._start_time)

    def _end(self) -> bool:
        if self.is_ended:
            return False
        self.is_ended = True
        self._upstream.waiting.pop(self, None)
        self._health.leave(self.candidate, self._upstream)
        if self._is_probe:
            self._upstream.is_probing = False
        return True


class UpstreamHealth:
    """The upstreams that this process has asked. Belongs to one event loop."""

    def __init__(
        self, *, clock: Callable[[], float] = time.monotonic, chance: Callable[[], float] = random.random
    ) -> None:
        self.clock = clock
        self._chance = chance
        self._upstreams: dict[UpstreamKey, _Upstream] = {}
        self._accounts: dict[tuple[str, str], int] = {}

    def view(self, candidate: Candidate) -> UpstreamView:
        """Returns what is known of the candidate's upstream now."""
        upstream = self._upstreams.get(candidate.key)
        return self._seen(candidate, upstream, upstream.counts(self.clock()) if upstream is not None else (0, 0))

    def glance(self, candidate: Candidate) -> UpstreamView:
        """Returns the same without the recent requests, which choosing does not need."""
        return self._seen(candidate, self._upstreams.get(candidate.key), (0, 0))

    def is_free(self, candidate: Candidate) -> bool:
        """Tells that nothing keeps a candidate from being asked, in far fewer steps than a view takes."""
        upstream = self._upstreams.get(candidate.key)
        return not candidate.account.max_in_flight and (upstream is None or not upstream.open_s)

    def _seen(self, candidate: Candidate, upstream: _Upstream | None, recent: tuple[int, int]) -> UpstreamView:
        in_account = self._accounts.get(_account(candidate), 0)
        if upstream is None:
            return UpstreamView(account_in_flight=in_account)
        now = self.clock()
        breaker = upstream.breaker(now)
        wait_s = upstream.open_until - now if breaker == "open" else 1.0 if upstream.is_probing else 0.0
        return UpstreamView(
            breaker=breaker,
            closed_for_s=wait_s if breaker != "closed" else 0.0,
            cooling_s=max(0.0, upstream.cool_until - now),
            silent_s=upstream.silence(now),
            in_flight=upstream.in_flight,
            account_in_flight=in_account,
            latency_s=upstream.latency(now),
            recent_requests=recent[0],
            recent_failures=recent[1],
        )

    def begin(self, candidate: Candidate) -> Attempt | None:
        """Counts one more request there; None when its breaker or its provider's limit does not let it through."""
        upstream = self._upstreams.get(candidate.key) or self._add(candidate.key)
        breaker = upstream.breaker(self.clock())
        limit = candidate.account.max_in_flight
        account = _account(candidate)
        if breaker == "open" or upstream.is_probing or (limit and self._accounts.get(account, 0) >= limit):
            return None
        upstream.is_probing = breaker == "half_open"
        upstream.in_flight += 1
        self._accounts[account] = self._accounts.get(account, 0) + 1
        return Attempt(self, candidate, upstream, is_probe=upstream.is_probing)

    def leave(self, candidate: Candidate, upstream: _Upstream) -> None:
        """Counts one request less there."""
        upstream.in_flight -= 1
        account = _account(candidate)
        left = self._accounts[account] - 1
        if left:
            self._accounts[account] = left
        else:
            del self._accounts[account]

    def count(self, upstream: _Upstream, *, failed: bool, is_probe: bool) -> None:
        """Takes a verdict in, and moves the breaker."""
        now = self.clock()
        upstream.count(now, failed=failed)
        if is_probe:
            if failed:
                self._open(upstream, now, min(upstream.open_s * 2, LAST_OPEN_S))
            else:
                self.close(upstream)
        elif failed and upstream.breaker(now) == "closed" and upstream.is_failing(now):
            self._open(upstream, now, FIRST_OPEN_S)

    def close(self, upstream: _Upstream) -> None:
        """Closes the breaker after a good probe, and forgets why it was open."""
        upstream.open_s = 0.0
        upstream.is_probing = False
        upstream.seconds = [_Second() for _ in range(WINDOW_S)]

    def _open(self, upstream: _Upstream, now: float, open_s: float) -> None:
        upstream.open_s = open_s
        # Replicas that saw the same failures do not probe at the same moment.
        upstream.open_until = now + open_s * (1 + OPEN_JITTER * self._chance())

    def _add(self, key: UpstreamKey) -> _Upstream:
        if len(self._upstreams) >= MAX_UPSTREAMS:
            now = self.clock()
            self._upstreams = {
                name: known for name, known in self._upstreams.items() if known.in_flight or known.open_until > now
            }
        added = self._upstreams[key] = _Upstream()
        return added


def _account(candidate: Candidate) -> tuple[str, str]:
    return (candidate.upstream.provider, candidate.owner)
