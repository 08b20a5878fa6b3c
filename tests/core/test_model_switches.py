"""What an operator may switch and name, and what is refused."""

import pytest
from fakes.fake_catalogue_store import FakeCatalogueStore

from quillgate_core.catalogue import Model, ModelUpstream
from quillgate_core.catalogue_basis import CatalogueBasis
from quillgate_core.errors import AliasTaken, InvalidRequest, ModelNotFound, QuillgateError, ScopeMissing
from quillgate_core.live_catalogue import LiveCatalogue
from quillgate_core.model_switches import ModelSwitches
from quillgate_core.principal import INFERENCE, PLATFORM_ADMIN, WORKSPACE_ADMIN, Principal

ADMIN = Principal("key_1", 1, "ws_1", frozenset({PLATFORM_ADMIN}))
WORKSPACE = Principal("key_2", 1, "ws_1", frozenset({INFERENCE, WORKSPACE_ADMIN}))


@pytest.fixture
def store() -> FakeCatalogueStore:
    """Nothing was changed yet."""
    return FakeCatalogueStore()


@pytest.fixture
def live(store: FakeCatalogueStore) -> LiveCatalogue:
    """Two models, one that a provider serves, and an alias of the operator's file."""
    models = [
        Model(id=f"g/{name}", context_window=9, max_output_tokens=9, upstreams=(ModelUpstream(name, "m"),))
        for name in ("on", "off")
    ]
    basis = CatalogueBasis(models=tuple(models), aliases={"stated": "g/on"})
    return LiveCatalogue(basis, providers=["on"], store=store)


@pytest.fixture
def switches(live: LiveCatalogue, store: FakeCatalogueStore) -> ModelSwitches:
    """The use case."""
    return ModelSwitches(live, store)


def test_a_model_is_switched_off_and_on(switches: ModelSwitches, live: LiveCatalogue) -> None:
    """The answer tells how the model is now, and it holds here at once; twice is as good as once."""
    for _ in range(2):
        known = switches.set_enabled(ADMIN, "g/on", enabled=False)
        assert (known.enabled, known.served) == (False, False)
        assert live.list() == ()
    known = switches.set_enabled(ADMIN, "g/on", enabled=True)
    assert (known.enabled, known.served) == (True, True)
    assert live.get("g/on").id == "g/on"


def test_a_model_that_nobody_serves_may_be_switched(switches: ModelSwitches) -> None:
    """What is known but has no provider can be switched off before it ever has one."""
    known = switches.set_enabled(ADMIN, "g/off", enabled=False)
    assert (known.enabled, known.served) == (False, False)
    assert [(known.model.id, known.enabled) for known in switches.list(ADMIN)] == [("g/off", False), ("g/on", True)]


def test_an_alias_is_given_moved_and_forgotten(switches: ModelSwitches, live: LiveCatalogue) -> None:
    """An alias means one model at a time, the one that it was given last."""
    assert switches.set_alias(ADMIN, "fast", "g/on").aliases == ("fast", "stated")
    assert live.get("fast").id == "g/on"
    assert switches.set_alias(ADMIN, "fast", "g/off").aliases == ("fast",)
    switches.delete_alias(ADMIN, "fast")
    with pytest.raises(ModelNotFound):
        live.get("fast")


def test_an_alias_of_the_file_can_be_moved_not_forgotten(switches: ModelSwitches, live: LiveCatalogue) -> None:
    """What the operator's file states may be overruled while running; without that it stands again."""
    with pytest.raises(InvalidRequest) as caught:
        switches.delete_alias(ADMIN, "stated")
    assert caught.value.metadata == {"param": "alias", "code": "invalid_value"}
    switches.set_alias(ADMIN, "stated", "g/off")
    switches.delete_alias(ADMIN, "stated")
    assert live.get("stated").id == "g/on"


@pytest.mark.parametrize(
    ("alias", "model_id", "error", "metadata"),
    [
        ("", "g/on", InvalidRequest, {"param": "alias", "code": "missing_required_parameter"}),
        ("fast", "", InvalidRequest, {"param": "model_id", "code": "missing_required_parameter"}),
        ("very fast", "g/on", InvalidRequest, {"param": "alias", "code": "invalid_value"}),
        ("schnell\u00fc", "g/on", InvalidRequest, {"param": "alias", "code": "invalid_value"}),
        ("x" * 201, "g/on", InvalidRequest, {"param": "alias", "code": "invalid_value"}),
        ("fast", "g/none", ModelNotFound, {"model": "g/none"}),
        ("fast", "stated", ModelNotFound, {"model": "stated"}),
        ("g/off", "g/on", AliasTaken, {"alias": "g/off"}),
    ],
)
def test_what_can_be_no_alias(
    switches: ModelSwitches,
    store: FakeCatalogueStore,
    alias: str,
    model_id: str,
    error: type[QuillgateError],
    metadata: dict[str, str],
) -> None:
    """Names that no client could send, models that are none, and ids of models; nothing is written."""
    with pytest.raises(error) as caught:
        switches.set_alias(ADMIN, alias, model_id)
    assert caught.value.metadata == metadata
    assert store.state.revision == 0


@pytest.mark.parametrize("model_id", ["g/none", "stated"])
def test_only_models_are_switched(switches: ModelSwitches, model_id: str) -> None:
    """What nobody knows, and an alias, cannot be switched."""
    with pytest.raises(ModelNotFound) as caught:
        switches.set_enabled(ADMIN, model_id, enabled=False)
    assert caught.value.metadata == {"model": model_id}


def test_only_the_platforms_admin_decides(switches: ModelSwitches, store: FakeCatalogueStore) -> None:
    """Whoever administers a workspace neither sees nor changes what is served to all."""
    calls = [
        lambda: switches.list(WORKSPACE),
        lambda: switches.set_enabled(WORKSPACE, "g/on", enabled=False),
        lambda: switches.set_alias(WORKSPACE, "fast", "g/on"),
        lambda: switches.delete_alias(WORKSPACE, "stated"),
    ]
    for call in calls:
        with pytest.raises(ScopeMissing) as caught:
            call()
        assert caught.value.metadata == {"scope": PLATFORM_ADMIN}
    assert store.state.revision == 0
