"""The catalogue shows the models that somebody serves, and routing asks their providers in the catalogue's order."""

import msgspec
import pytest

from quillgate_core.catalogue import Catalogue, Model, ModelUpstream
from quillgate_core.errors import ModelNotFound
from quillgate_core.routing import attempts


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
    assert attempts(model) == (ModelUpstream("second", "second-name", priority=1),)


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
