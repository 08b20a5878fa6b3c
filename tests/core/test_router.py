"""Who may serve a workspace's request, who may not, and why."""

from typing import Any

import pytest
from fakes.candidates import model_of
from fakes.clock import FakeClock
from fakes.fake_own_keys import FakeOwnKeys, locked_key, own_key
from fakes.fake_provider import FakeProvider
from fakes.fake_text_provider import FakeTextProvider

from quillgate_core.catalogue import Catalogue, Model
from quillgate_core.errors import InvalidRequest, ModelNotFound, Overloaded, ProviderCredentialRejected
from quillgate_core.own_keys import OwnKey
from quillgate_core.principal import INFERENCE, Principal
from quillgate_core.router import Router
from quillgate_core.upstream import Account
from quillgate_core.upstream_health import MIN_REQUESTS, UpstreamHealth

CHAT = "chat.completions"


def account(provider: str, *, byok: bool = False, **members: Any) -> Account:
    """An account that chats."""
    return Account(provider, byok=byok, **{"chat": FakeProvider(), **members})


def router(*house: str, own: tuple[OwnKey, ...] = (), health: UpstreamHealth | None = None) -> Router:
    """A router with the gateway's own keys for `house`; `ws_1` brings `own`."""
    return Router(
        Catalogue([model_of("a", "b")], providers=house),
        {provider: account(provider) for provider in house},
        own_keys=FakeOwnKeys(keys=own),
        health=health,
        chance=lambda: 0.5,
    )


def served(made: Router, *models: Model, workspace_id: str = "ws_1", **asked: Any) -> list[str]:
    """Who would be asked, in order; the workspace's own keys are marked."""
    route = made.route(workspace_id, models or (model_of("a", "b"),), asked.pop("endpoint", CHAT), **asked)
    return [f"{'own ' if other.owner else ''}{other.upstream.provider}" for other in route.candidates]


def test_house_serves_in_the_catalogue_s_order() -> None:
    """Without own keys there is the gateway's, and the revision before any change."""
    made = router("a", "b")
    assert served(made) == ["a", "b"]
    assert made.route("ws_2", [model_of("a")], CHAT).credential_revision == 0
    principal = Principal("key_1", 1, "ws_1", frozenset({INFERENCE}))
    assert made.usable_model(principal, "m").id == "m"
    with pytest.raises(ModelNotFound):
        made.usable_model(principal, "none")


def test_own_keys_alone_serve_their_workspace() -> None:
    """The gateway's keys are no candidates at all, for that workspace; the revision that was looked at is told."""
    made = router("a", "b", own=(own_key(account("b", byok=True)),))
    assert served(made) == ["own b"]
    assert served(made, workspace_id="ws_2") == ["a", "b"]
    route = made.route("ws_1", [model_of("a", "b")], CHAT)
    assert route.credential_revision == 1
    assert (route.candidates[0].owner, route.candidates[0].account.byok) == ("ws_1", True)


def test_house_follows_where_that_is_allowed() -> None:
    """Own keys first, whatever the catalogue's order; the same provider may come twice, by two keys."""
    made = router("a", "b", own=(own_key(account("b"), allow_fallback=True),))
    assert served(made) == ["own b", "a", "b"]


def test_every_own_key_must_allow_it() -> None:
    """One that does not keeps the gateway's out, whatever the other says."""
    keys = (own_key(account("a"), allow_fallback=True), own_key(account("b")))
    assert served(router("a", "b", own=keys)) == ["own a", "own b"]


def test_own_keys_for_other_models_change_nothing() -> None:
    """A key with a provider that does not serve the model is beside the point."""
    assert served(router("a", "b", own=(own_key(account("z")),))) == ["a", "b"]


def test_own_key_serves_what_the_gateway_cannot() -> None:
    """A provider that only the workspace has a key for is a candidate."""
    assert served(router("b", own=(own_key(account("a"), allow_fallback=True),))) == ["own a", "b"]


def test_models_are_asked_in_the_order_of_the_request() -> None:
    """A fallback model is not preferred because the workspace has a key for it."""
    made = router("a", "b", own=(own_key(account("b")),))
    assert served(made, model_of("a", model_id="x"), model_of("b", model_id="y")) == ["a", "own b"]


def test_locked_key_is_as_good_as_refused() -> None:
    """Another serves if it may; else the request is refused, because the workspace's administrator can help."""
    assert served(router("a", "b", own=(locked_key("a", allow_fallback=True),))) == ["a", "b"]
    assert served(router("a", own=(locked_key("a"), own_key(account("b"))))) == ["own b"]
    made = router("a", "b", own=(locked_key("a"),))
    with pytest.raises(ProviderCredentialRejected) as caught:
        served(made)
    assert caught.value.metadata == {"provider": "a"}
    with pytest.raises(ProviderCredentialRejected):
        served(made, model_of("a"), model_of("b", model_id="other"))


def test_endpoints_that_nobody_speaks_are_refused() -> None:
    """It is not overload: waiting would not help. Chat stands in for text, for speech it does not."""
    made = router("a", "b")
    assert served(made, endpoint="completions") == ["a", "b"]
    with pytest.raises(InvalidRequest) as caught:
        served(made, endpoint="audio.transcriptions")
    assert caught.value.metadata == {"param": "model", "code": "unsupported_value"}
    with pytest.raises(InvalidRequest):
        served(router("a", own=(own_key(account("b", chat=None)),)))


def test_native_speakers_come_first() -> None:
    """A provider that speaks the endpoint itself loses nothing in translation."""
    house = {"a": account("a"), "b": account("b", text=FakeTextProvider())}
    made = Router(Catalogue([], providers=[]), house)
    assert served(made, endpoint="completions") == ["b", "a"]
    assert served(made) == ["a", "b"]


def test_all_blocked_is_overload_with_a_time() -> None:
    """The time is that of the first breaker to let a probe through; own keys' breakers are their own."""
    clock = FakeClock()
    health = UpstreamHealth(clock=clock, chance=lambda: 0.0)
    made = router("a", "b", health=health, own=())
    both = made.route("ws_1", [model_of("a", "b")], CHAT).candidates
    for place, candidate in enumerate(both):
        for _ in range(MIN_REQUESTS):
            attempt = health.begin(candidate)
            assert attempt is not None
            attempt.fail()
        clock.now_s += 2 * (place == 0)
    with pytest.raises(Overloaded) as caught:
        served(made)
    assert caught.value.metadata == {"retry_after_s": "3"}
    assert not caught.value.is_stated
    clock.now_s += 3
    assert served(made) == ["a"]


def test_limit_of_requests_is_overload() -> None:
    """A full provider is asked again in a second."""
    house = {"a": Account("a", chat=FakeProvider(), max_in_flight=1)}
    made = Router(Catalogue([], providers=[]), house)
    made.health.begin(made.route("ws", [model_of("a")], CHAT).candidates[0])
    with pytest.raises(Overloaded) as caught:
        served(made, model_of("a"))
    assert caught.value.metadata == {"retry_after_s": "1"}


def test_sessions_stick_within_their_workspace() -> None:
    """The same session of another workspace is another conversation."""
    made = router("a", "b")
    equals = model_of("a", "b", priority=0)
    orders = {served(made, equals, session="s", workspace_id=f"ws_{number}")[0] for number in range(40)}
    assert orders == {"a", "b"}
    assert len({served(made, equals, session="s")[0] for _ in range(20)}) == 1


def explained(made: Router, model: Model | None = None, endpoint: Any = CHAT) -> list[tuple[str, bool, str]]:
    """What is told of each upstream."""
    return [
        (place.candidate.upstream.provider, place.eligible, place.reason)
        for place in made.explain("ws_1", model or model_of("a", "b"), endpoint)
    ]


def test_explain_tells_who_is_left_out_and_why() -> None:
    """Every upstream of the model is there, those that can be asked first."""
    first = "first in its order"
    assert explained(router("b")) == [("b", True, first), ("a", False, "the gateway has no key for it")]
    own = explained(router("a", "b", own=(own_key(account("b")),)))
    others = "the workspace brings its own keys for this model, and does not allow others"
    assert own == [("b", True, "the workspace's own key; " + first), ("a", False, others)]
    locked = "the workspace's own key cannot be read"
    assert explained(router("a", own=(locked_key("a"),))) == [("a", False, locked), ("b", False, others)]
    deaf = [(name, False, "its provider does not speak `audio.transcriptions`") for name in ("a", "b")]
    assert explained(router("a", "b"), endpoint="audio.transcriptions") == deaf
    mute = (own_key(account("a", chat=None)),)
    assert explained(router("b", own=mute)) == [
        ("a", False, "its provider does not speak `chat.completions`"),
        ("b", False, others),
    ]


def test_explain_shows_both_keys_of_a_provider() -> None:
    """Where the gateway's follows one's own, the upstream has two places."""
    places = explained(router("a", own=(own_key(account("a"), allow_fallback=True),)), model_of("a"))
    assert [(name, eligible) for name, eligible, _ in places] == [("a", True), ("a", True)]
