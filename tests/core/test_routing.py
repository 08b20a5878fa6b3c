"""Ranking is decided by order, then by health, load and luck, and says why."""

import random
from collections import Counter
from collections.abc import Iterable

import pytest
from fakes.candidates import candidate
from hypothesis import given
from hypothesis import strategies as st

from quillgate_core.routing import Candidate, Ranked, UpstreamView, rank, retry_after_s

IDLE = UpstreamView()


def ranked(
    candidates: Iterable[Candidate],
    views: dict[str, UpstreamView] | None = None,
    *,
    session: str = "",
    seed: int = 0,
) -> list[Ranked]:
    """Rank with what is known of each provider; nothing is known of those left out."""
    known = views or {}
    return rank(
        list(candidates),
        lambda asked: known.get(asked.upstream.provider, IDLE),
        session=session,
        chance=random.Random(seed).random,
    )


def names(places: Iterable[Ranked], *, eligible: bool = True) -> list[str]:
    """The providers in their order."""
    return [place.candidate.upstream.provider for place in places if place.eligible is eligible]


def test_order_is_model_then_owner_then_nativeness_then_priority() -> None:
    """Each level decides only among what the one before left equal."""
    wanted = [
        candidate("own", rank=0, owner="ws", is_native=False, priority=9),
        candidate("native", rank=0, priority=9),
        candidate("first", rank=0, is_native=False, priority=0),
        candidate("second", rank=0, is_native=False, priority=1),
        candidate("other-own", rank=1, owner="ws"),
        candidate("other", rank=1),
    ]
    for seed in range(5):
        shuffled = random.Random(seed).sample(wanted, len(wanted))
        assert names(ranked(shuffled)) == [place.upstream.provider for place in wanted]


def test_one_of_its_tier_says_so() -> None:
    """Where there is nothing to choose, the reason is the order."""
    (place,) = ranked([candidate()])
    assert (place.eligible, place.reason) == (True, "first in its order")
    (own,) = ranked([candidate(owner="ws")])
    assert own.reason == "the workspace's own key; first in its order"


@pytest.mark.parametrize(
    ("view", "limit", "reason"),
    [
        (UpstreamView(breaker="open", closed_for_s=3.21), 0, "its breaker is open for 3.2 s more"),
        (
            UpstreamView(breaker="half_open", closed_for_s=1.0),
            0,
            "its breaker is half open, and a probe is under way",
        ),
        (
            UpstreamView(account_in_flight=4),
            4,
            "its provider has 4 requests under way, which is the limit",
        ),
    ],
)
def test_blocked_are_last_and_say_why(view: UpstreamView, limit: int, reason: str) -> None:
    """What cannot be asked is no candidate, whatever its order."""
    places = ranked([candidate("a", max_in_flight=limit), candidate("b", priority=1)], {"a": view})
    assert (names(places), names(places, eligible=False)) == (["b"], ["a"])
    assert places[-1].reason == reason


def test_below_its_limit_it_is_asked() -> None:
    """A limit counts what is under way, and 0 is none."""
    busy = {"a": UpstreamView(account_in_flight=3)}
    assert names(ranked([candidate("a", max_in_flight=4)], busy)) == ["a"]
    assert names(ranked([candidate("a")], busy)) == ["a"]


def test_half_open_without_probe_is_probed_in_its_place() -> None:
    """The next request is the probe; among equals it goes there first, because its past makes it look slow."""
    views = {"b": UpstreamView(breaker="half_open", latency_s=9.0), "a": UpstreamView(latency_s=0.1)}
    first, second = ranked([candidate("a"), candidate("b")], views)
    assert names([first, second]) == ["b", "a"]
    assert first.reason.endswith("; a probe of its half-open breaker")
    assert names(ranked([candidate("a"), candidate("b", priority=1)], views)) == ["a", "b"]


def test_what_asks_to_be_left_alone_is_asked_last() -> None:
    """Retry-After puts an upstream behind all others, those of other models too, but not out."""
    cooling = {"a": UpstreamView(cooling_s=2.0)}
    places = ranked([candidate("a"), candidate("b", priority=1), candidate("c", rank=1)], cooling)
    assert names(places) == ["b", "c", "a"]
    assert places[-1].reason.endswith("; but after all others: it asks to be left alone for 2.0 s")
    assert names(ranked([candidate("a")], cooling)) == ["a"]


def test_what_seems_to_hang_is_asked_last() -> None:
    """It may be wrong, so it is no reason to leave it out."""
    silent = {"a": UpstreamView(silent_s=3.0)}
    places = ranked([candidate("a"), candidate("b", priority=1)], silent)
    assert names(places) == ["b", "a"]
    assert places[-1].reason.endswith("; but after all others: many wait there, and it has been silent for 3.0 s")


@pytest.mark.parametrize(
    ("a", "b", "first"),
    [
        (UpstreamView(latency_s=0.2), UpstreamView(latency_s=0.1), "b"),
        (UpstreamView(latency_s=0.1, in_flight=3), UpstreamView(latency_s=0.2, in_flight=0), "b"),
        (UpstreamView(latency_s=0.1, in_flight=0), UpstreamView(latency_s=0.2, in_flight=3), "a"),
        (UpstreamView(latency_s=0.1), UpstreamView(), "b"),
    ],
    ids=["faster", "less busy", "both", "unknown"],
)
def test_equals_are_asked_by_load_and_speed(a: UpstreamView, b: UpstreamView, first: str) -> None:
    """Latency times what is under way; one that is not known is tried."""
    places = ranked([candidate("a"), candidate("b")], {"a": a, "b": b})
    assert names(places)[0] == first
    assert places[0].reason == "among equals, the least busy and fastest first"


def test_ties_are_broken_by_chance() -> None:
    """Idle equals each get about half."""
    counts = Counter(names(ranked([candidate("a"), candidate("b")], seed=seed))[0] for seed in range(400))
    assert 140 < counts["a"] < 260


def test_weights_are_shares() -> None:
    """Of 4:1, the heavier comes first in about four of five."""
    chance = random.Random(7).random
    equals = [candidate("a", weight=4), candidate("b", weight=1)]
    firsts = Counter(
        names(rank(equals, lambda _: IDLE, session="", chance=chance))[0] for _ in range(2_000)
    )  # fmt: skip
    assert 1_500 < firsts["a"] < 1_700
    assert ranked(equals)[0].reason == "among equals, drawn by weight"


def test_conversations_keep_their_upstream() -> None:
    """Whatever the load, one conversation has one order; many conversations spread by weight."""
    equals = [candidate("a", weight=3), candidate("b", weight=1)]
    busy = {"a": UpstreamView(in_flight=50, latency_s=9.0)}
    firsts: Counter[str] = Counter()
    for number in range(800):
        session = f"ws\0{number}"
        order = names(ranked(equals, session=session, seed=number))
        assert order == names(ranked(equals, busy, session=session, seed=number + 1))
        firsts[order[0]] += 1
    assert 540 < firsts["a"] < 660


def test_conversations_move_only_if_their_upstream_goes() -> None:
    """Losing one of three moves its conversations and no others (rendezvous hashing)."""
    three = [candidate(name) for name in "abc"]
    for number in range(100):
        before = names(ranked(three, session=str(number)))
        after = names(ranked(three, {"c": UpstreamView(breaker="open", closed_for_s=1)}, session=str(number)))
        assert after == [name for name in before if name != "c"]


def test_retry_after_is_that_of_the_first_to_come_back() -> None:
    """Whole seconds, rounded up, at least 1."""
    views = {
        "a": UpstreamView(breaker="open", closed_for_s=4.2),
        "b": UpstreamView(breaker="open", closed_for_s=9.0),
    }
    assert retry_after_s(ranked([candidate("a"), candidate("b")], views)) == 5
    assert retry_after_s(ranked([candidate("b")], views)) == 9
    assert retry_after_s([]) == 1


_VIEWS = st.builds(
    UpstreamView,
    breaker=st.sampled_from(["closed", "open", "half_open"]),
    closed_for_s=st.floats(0, 60),
    cooling_s=st.sampled_from([0.0, 1.0]),
    in_flight=st.integers(0, 9),
    account_in_flight=st.integers(0, 9),
    latency_s=st.floats(0, 60),
)


@given(
    entries=st.lists(
        st.tuples(_VIEWS, st.integers(0, 2), st.integers(0, 2), st.booleans(), st.integers(1, 1_000)), max_size=6
    ),
    session=st.sampled_from(["", "s"]),
    seed=st.integers(0, 99),
)
def test_nobody_is_lost_or_asked_twice(
    entries: list[tuple[UpstreamView, int, int, bool, int]], session: str, seed: int
) -> None:
    """Every candidate has one place, with a reason, and those that can be asked come before the others."""
    candidates = [
        candidate(str(number), rank=place, priority=priority, is_native=native, weight=weight, max_in_flight=5)
        for number, (_, place, priority, native, weight) in enumerate(entries)
    ]
    views = {str(number): view for number, (view, *_) in enumerate(entries)}
    places = ranked(candidates, views, session=session, seed=seed)
    assert sorted(place.candidate.upstream.provider for place in places) == sorted(views)
    assert [place.eligible for place in places] == sorted((place.eligible for place in places), reverse=True)
    assert all(place.reason for place in places)
