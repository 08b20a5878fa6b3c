"""The catalogue follows its store, and keeps what it has when the store is away."""

import pytest
from fakes.fake_catalogue_store import FakeCatalogueStore

from quillgate_core.catalogue import Model, ModelUpstream
from quillgate_core.catalogue_basis import CatalogueBasis
from quillgate_core.discovered import DiscoveredModel
from quillgate_core.errors import ModelNotFound, Overloaded
from quillgate_core.live_catalogue import CatalogueState, LiveCatalogue
from quillgate_core.upstream import ListedModel


def _live(store: FakeCatalogueStore, **basis: object) -> LiveCatalogue:
    model = Model(id="g/a", context_window=9, max_output_tokens=9, upstreams=(ModelUpstream("p", "a"),))
    return LiveCatalogue(CatalogueBasis(models=(model,), **basis), providers=["p"], store=store)  # type: ignore[arg-type]


def test_before_the_first_look_it_is_the_basis() -> None:
    """A core serves what comes with it until it knows more."""
    live = _live(FakeCatalogueStore(CatalogueState(1, disabled=frozenset({"g/a"}))))
    assert live.get("g/a").id == "g/a"
    assert live.state == CatalogueState()


def test_a_change_is_followed() -> None:
    """Switches, aliases and discovered models hold after the next look, all of them at once."""
    store = FakeCatalogueStore()
    live = _live(store)
    before = live.catalogue
    found = DiscoveredModel("p", "b", "g/b", ListedModel("b", context_window=8))
    store.state = CatalogueState(1, disabled=frozenset({"g/a"}), aliases={"fast": "g/b"}, discovered=(found,))
    live.refresh()
    assert [model.id for model in live.list()] == ["g/b"]
    assert live.get("fast").id == "g/b"
    assert [(known.model.id, known.source) for known in live.known()] == [("g/a", "bundled"), ("g/b", "discovered")]
    assert before.get("g/a").id == "g/a"


def test_nothing_is_read_without_a_change() -> None:
    """A look costs one number until that number is another."""
    store = FakeCatalogueStore()
    live = _live(store)
    for _ in range(3):
        live.refresh()
    assert store.reads == 0
    store.set_alias("fast", "g/a")
    live.refresh()
    live.refresh()
    assert store.reads == 1


def test_a_store_that_is_away_changes_nothing() -> None:
    """The last state stays in force, and the failure is the caller's to log."""
    store = FakeCatalogueStore()
    live = _live(store)
    store.set_enabled("g/a", enabled=False)
    live.refresh()
    store.set_enabled("g/a", enabled=True)
    store.away = True
    with pytest.raises(Overloaded):
        live.refresh()
    with pytest.raises(ModelNotFound):
        live.get("g/a")
    store.away = False
    live.refresh()
    assert live.get("g/a").id == "g/a"


def test_a_later_alias_wins() -> None:
    """What was named while running stands before what the operator's file says."""
    store = FakeCatalogueStore(CatalogueState(1, aliases={"fast": "g/a"}))
    live = _live(store, aliases={"fast": "g/none", "other": "g/a"})
    live.refresh()
    assert live.get("fast").id == live.get("other").id == "g/a"
