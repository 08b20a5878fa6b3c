"""Which upstreams serve a request, in which order, and why: pure functions over what is known of each upstream.

    those that neither ask to be left alone (`Retry-After`) nor seem to hang before those that do
      └ models in the order that the request names them
          ├ the workspace's own keys before the gateway's
          ├ those that speak the endpoint themselves before those that it is translated for
          ├ lower priority before higher
          └ among equals: the conversation's own, else by weight, else the least busy and fastest

What is at its limit, or whose breaker is open, is left out. What asks to be left alone, or seems to hang, is not: the
one holds most often for one kind of request, the other may be wrong, and a last resort had better be asked than not. It
must not do I/O, keep state or know what is sent.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Literal, TypeAlias

import msgspec

from quillgate_core.catalogue import Model, ModelUpstream
from quillgate_core.upstream import Account

Breaker: TypeAlias = Literal["closed", "open", "half_open"]
UpstreamKey: TypeAlias = tuple[str, str, str]
"""Provider, its name for the model, and the workspace whose key it is: empty for the gateway's own."""


class Candidate(msgspec.Struct, frozen=True):
    """One way to serve one request: a model, an upstream of it, and an account there."""

    model: Model
    upstream: ModelUpstream
    account: Account
    priority: int = 0
    """Of the upstream among those of its model."""
    rank: int = 0
    """Of the model among those that the request names."""
    owner: str = ""
    """The workspace whose key it is; empty: the gateway's own."""
    allow_fallback: bool = False
    """Whether the gateway's own keys may serve when the owner's is refused."""
    is_native: bool = True
    """Whether the provider speaks the endpoint itself."""

    @property
    def key(self) -> UpstreamKey:
        """What its health is kept under: a workspace's trouble with its own key is nobody else's."""
        return (self.upstream.provider, self.upstream.model, self.owner)

    @property
    def name(self) -> str:
        """Who this is, for callers: `openrouter/google/gemini-2.5-flash`."""
        return f"{self.upstream.provider}/{self.upstream.model}"


class UpstreamView(msgspec.Struct, frozen=True):
    """What this process knows of an upstream at one moment; times in seconds."""

    breaker: Breaker = "closed"
    closed_for_s: float = 0.0
    """How long its breaker still lets nothing through; 0 when it does."""
    cooling_s: float = 0.0
    """How long it still asks to be left alone (`Retry-After`)."""
    silent_s: float = 0.0
    """For how long many wait there and none has had output, unusually long; 0: it is not so."""
    in_flight: int = 0
    account_in_flight: int = 0
    latency_s: float = 0.0
    """Moving average of the time to the first output; 0: not known."""
    recent_requests: int = 0
    recent_failures: int = 0


class Ranked(msgspec.Struct, frozen=True):
    """A candidate's place, and the reason for it, for people."""

    candidate: Candidate
    view: UpstreamView
    eligible: bool
    reason: str


def rank(
    candidates: Sequence[Candidate],
    view: Callable[[Candidate], UpstreamView],
    *,
    session: str,
    chance: Callable[[], float],
) -> list[Ranked]:
    """Returns those that can be asked, best first, then the others.

    `session` names the conversation (with its workspace), empty for none; `chance` returns numbers from 0 to 1.
    """
    able: list[_Known] = []
    blocked: list[Ranked] = []
    for candidate in candidates:
        known = view(candidate)
        if reason := _block(known, candidate):
            blocked.append(Ranked(candidate, known, False, reason))
        else:
            able.append((candidate, known))
    if len(able) == 1:
        return [*_rank_equals(able, session, chance), *blocked]
    able.sort(key=_tier)
    ordered: list[Ranked] = []
    for _, tier in groupby(able, key=_tier):
        ordered += _rank_equals(list(tier), session, chance)
    return ordered + blocked


def retry_after_s(blocked: Sequence[Ranked]) -> int:
    """Returns when one of those that cannot be asked may be asked again, in whole seconds, at least 1."""
    return max(1, math.ceil(min((ranked.view.closed_for_s for ranked in blocked), default=1.0)))


_Known: TypeAlias = tuple[Candidate, UpstreamView]


def _tier(known: _Known) -> tuple[bool, int, bool, bool, int]:
    candidate, view = known
    return (
        view.cooling_s > 0 or view.silent_s > 0,
        candidate.rank,
        candidate.owner == "",
        not candidate.is_native,
        candidate.priority,
    )


def _block(view: UpstreamView, candidate: Candidate) -> str:
    """Returns why it cannot be asked now, empty if it can."""
    if view.breaker == "open":
        return f"its breaker is open for {view.closed_for_s:.1f} s more"
    if view.breaker == "half_open" and view.closed_for_s:
        return "its breaker is half open, and a probe is under way"
    limit = candidate.account.max_in_flight
    if limit and view.account_in_flight >= limit:
        return f"its provider has {view.account_in_flight} requests under way, which is the limit"
    return ""


def _rank_equals(equals: list[_Known], session: str, chance: Callable[[], float]) -> list[Ranked]:
    if len(equals) == 1:
        reason = "first in its order"
    elif session:
        equals.sort(key=lambda known: _drawn(known[0], _affinity(session, known[0])), reverse=True)
        reason = "among equals, the conversation's own order"
    elif len({candidate.upstream.weight for candidate, _ in equals}) > 1:
        equals.sort(key=lambda known: _drawn(known[0], chance()), reverse=True)
        reason = "among equals, drawn by weight"
    else:
        # One that may have recovered is asked first: it looks slow, and would otherwise not be tried for long.
        equals.sort(key=lambda known: (known[1].breaker != "half_open", _cost(known[1]), chance()))
        reason = "among equals, the least busy and fastest first"
    return [_ranked(known, reason) for known in equals]


def _ranked(known: _Known, reason: str) -> Ranked:
    candidate, view = known
    whose = "the workspace's own key; " if candidate.owner else ""
    probe = "; a probe of its half-open breaker" if view.breaker == "half_open" else ""
    last = ""
    if view.cooling_s:
        last = f"; but after all others: it asks to be left alone for {view.cooling_s:.1f} s"
    elif view.silent_s:
        last = f"; but after all others: many wait there, and it has been silent for {view.silent_s:.1f} s"
    return Ranked(candidate, view, True, f"{whose}{reason}{probe}{last}")


def _cost(view: UpstreamView) -> float:
    """What one more request there is expected to wait; the unknown look fast, so that they become known."""
    return view.latency_s * (view.in_flight + 1)


def _drawn(candidate: Candidate, number: float) -> float:
    """Sorted by u^(1/w), each comes first as often as its weight says (Efraimidis and Spirakis)."""
    return float(number ** (1 / candidate.upstream.weight))


def _affinity(session: str, candidate: Candidate) -> float:
    """Rendezvous hashing: each conversation has its own order, and keeps it when another upstream comes or goes."""
    digest = hashlib.blake2b("\0".join((session, *candidate.key)).encode(), digest_size=6).digest()
    return int.from_bytes(digest) / 2**48
