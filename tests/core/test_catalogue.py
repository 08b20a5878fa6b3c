"""The catalogue shows the models that somebody serves."""

import msgspec
import pytest

from quillgate_core.catalogue import Catalogue, Model, ModelUpstream
from quillgate_core.errors import ModelNotFound


def _model(model_id: str, *providers: str, owned_by: str = "") -> Model:
    upstreams = tuple(ModelUpstream(provider, f"{provider}-name") for provider in providers)
    return Model(id=model_id, context_window=10, max_output_tokens=5, upstreams=upstreams, owned_by=owned_by)


def test_models_are_sorted_by_id() -> None:
    """The order of the list is that of the ids, whatever the order of the file."""
    catalogue = Catalogue([_model("b", "p"), _model("a", "p"), _model("A", "p")], providers=["p"])
    assert [model.id for model in catalogue.list()] == ["A", "a", "b"]


def test_model_is_served_by_the_providers_that_are_on() -> None:
    """Upstreams whose provider is off are as good as absent; the order of the others stays."""
    catalogue = Catalogue([_model("a", "off", "second", "first")], providers=["first", "second"])
    model = catalogue.get("a")
    assert [upstream.provider for upstream in model.upstreams] == ["second", "first"]


@pytest.mark.parametrize("model_id", ["off", "unknown", "", "A"])
def test_model_that_nobody_serves_is_unknown(model_id: str) -> None:
    """A model without a provider that is on cannot be told from one that does not exist."""
    catalogue = Catalogue([_model("a", "p"), _model("off", "q")], providers=["p"])
    with pytest.raises(ModelNotFound) as caught:
        catalogue.get(model_id)
    assert caught.value.metadata == {"model": model_id}
    assert [model.id for model in catalogue.list()] == ["a"]


def test_later_model_of_an_id_wins() -> None:
    """Of two models with one id there is one."""
    catalogue = Catalogue([_model("a", "p"), _model("a", "q")], providers=["p", "q"])
    assert [model.upstreams[0].provider for model in catalogue.list()] == ["q"]


@pytest.mark.parametrize(("model_id", "owned_by", "owner"), [("g/m", "", "g"), ("m", "", "m"), ("g/m", "us", "us")])
def test_owner_is_given_or_stands_before_the_slash(model_id: str, owned_by: str, owner: str) -> None:
    """Who made a model is told by its id unless somebody said otherwise."""
    assert _model(model_id, "p", owned_by=owned_by).owner == owner


@pytest.mark.parametrize(
    "change",
    [
        {"id": ""},
        {"id": "a b"},
        {"id": "ü"},
        {"id": "x" * 201},
        {"context_window": 0},
        {"context_window": 100_000_001},
        {"context_window": 1.5},
        {"max_output_tokens": 0},
        {"upstreams": []},
        {"upstreams": [{"provider": "p"}]},
        {"max_tokens": 1},
    ],
    ids=str,
)
def test_model_must_be_one(change: dict[str, object]) -> None:
    """A description with a member that is missing, unknown or out of range is refused."""
    good = {"id": "a", "context_window": 1, "max_output_tokens": 1, "upstreams": [{"provider": "p", "model": "m"}]}
    msgspec.convert(good, Model)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({**good, **change}, Model)


def test_alias_means_its_model() -> None:
    """A model answers to its aliases as itself; the alias is not listed, and follows no other alias."""
    catalogue = Catalogue([_model("a", "p")], providers=["p"], aliases={"fast": "a", "faster": "fast"})
    assert catalogue.get("fast") is catalogue.get("a")
    assert [model.id for model in catalogue.list()] == ["a"]
    with pytest.raises(ModelNotFound) as caught:
        catalogue.get("faster")
    assert caught.value.metadata == {"model": "faster"}


def test_alias_never_hides_a_model() -> None:
    """An alias that became the id of a model means that model, and is nobody's alias."""
    catalogue = Catalogue([_model("a", "p"), _model("b", "p")], providers=["p"], aliases={"b": "a"})
    assert catalogue.get("b").id == "b"
    assert [known.aliases for known in catalogue.known()] == [(), ()]


@pytest.mark.parametrize("own", [frozenset(), frozenset({"p", "q"})], ids=["house", "own key"])
def test_disabled_model_is_unknown(own: frozenset[str]) -> None:
    """A model that is switched off is unknown by its id and aliases, also to who brings a key, but is still known."""
    catalogue = Catalogue([_model("a", "p", "q")], providers=["p"], aliases={"fast": "a"}, disabled={"a"})
    for name in ("a", "fast"):
        with pytest.raises(ModelNotFound) as caught:
            catalogue.get(name, own)
        assert caught.value.metadata == {"model": name}
    assert catalogue.list(own) == ()
    (known,) = catalogue.known()
    assert (known.model.id, known.enabled, known.served, known.aliases) == ("a", False, False, ("fast",))
    assert catalogue.find("a") == known
    assert catalogue.find("fast") is None


def test_own_keys_open_models() -> None:
    """A workspace with its own key also has what only that provider serves, and its upstreams in their place."""
    models = [_model("a", "mine", "house"), _model("b", "mine"), _model("c", "other")]
    catalogue = Catalogue(models, providers=["house"], aliases={"bee": "b"})
    own = frozenset({"mine"})
    assert [model.id for model in catalogue.list(own)] == ["a", "b"]
    assert [upstream.provider for upstream in catalogue.get("a", own).upstreams] == ["mine", "house"]
    assert catalogue.get("bee", own).id == "b"
    assert [model.id for model in catalogue.list()] == ["a"]
    for model_id, keys in (("b", frozenset[str]()), ("c", own)):
        with pytest.raises(ModelNotFound):
            catalogue.get(model_id, keys)
    assert catalogue.list(frozenset({"house"})) is catalogue.list()


def test_upstreams_stand_in_the_order_to_try_them() -> None:
    """Priorities order the upstreams; one without has its place, and equals keep the order in which they stand."""
    upstreams = (
        ModelUpstream("last", "m", priority=9),
        ModelUpstream("second", "m"),
        ModelUpstream("first", "m", priority=0),
        ModelUpstream("equal", "m", priority=1),
    )
    model = Model(id="a", context_window=9, max_output_tokens=9, upstreams=upstreams)
    got = Catalogue([model], providers=["first", "second", "equal", "last"]).get("a")
    assert [(upstream.provider, upstream.priority) for upstream in got.upstreams] == [
        ("first", 0),
        ("second", 1),
        ("equal", 1),
        ("last", 9),
    ]


@pytest.mark.parametrize(("context_window", "messages"), [(1, 1), (16_000, 1), (16_001, 2), (1_048_576, 66)])
def test_full_context_is_told_in_messages(context_window: int, messages: int) -> None:
    """What a full context window counts follows from the formula alone."""
    model = msgspec.structs.replace(_model("a", "p"), context_window=context_window)
    assert model.full_context_messages == messages
