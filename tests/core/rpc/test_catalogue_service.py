"""CatalogueService on real use cases and a store in memory: what each message means, and back."""

from collections.abc import Callable
from typing import Any

import pytest
from fakes.fake_catalogue_store import FakeCatalogueStore, FakeLister
from fakes.sync_rpc import FakeCaller, SyncRpc

from quillgate.v1 import catalogue_service_pb2 as pb
from quillgate_core.catalogue import Model, ModelUpstream
from quillgate_core.catalogue_basis import CatalogueBasis
from quillgate_core.catalogue_file import ProviderEntry
from quillgate_core.discovery import Discovery
from quillgate_core.errors import ModelNotFound, ScopeMissing
from quillgate_core.live_catalogue import LiveCatalogue
from quillgate_core.model_switches import ModelSwitches
from quillgate_core.pricing import Price
from quillgate_core.principal import INFERENCE, PLATFORM_ADMIN, Principal
from quillgate_core.rpc.catalogue_service import CatalogueService
from quillgate_core.upstream import ListedModel

SERVICE = pb.DESCRIPTOR.services_by_name["CatalogueService"]
BUNDLED = Model(
    id="g/bundled",
    context_window=32_001,
    max_output_tokens=9,
    upstreams=(ModelUpstream("on", "m1", price=Price("0.15", "1")), ModelUpstream("off", "m2", weight=3)),
)
OWN = Model(id="my/own", context_window=9, max_output_tokens=9, upstreams=(ModelUpstream("off", "m3", priority=4),))


async def _at_once(call: Callable[[], Any]) -> Any:
    return call()


@pytest.fixture
def caller() -> FakeCaller:
    """The platform's admin, until the test says otherwise."""
    return FakeCaller(Principal("key_1", 1, "ws_1", frozenset({PLATFORM_ADMIN})))


@pytest.fixture
def servicer(caller: FakeCaller) -> CatalogueService:
    """The servicer, with a bundled model, one of the operator's file, and a provider with a list."""
    store = FakeCatalogueStore()
    stated = frozenset((*Model.__struct_fields__, "price"))
    basis = CatalogueBasis(
        {"on": ProviderEntry(base_url="https://host/v1")},
        (BUNDLED, OWN),
        stated={"my/own": stated},
        snapshot_date="2026-11-25",
    )
    live = LiveCatalogue(basis, providers=["on"], store=store)
    lister = FakeLister(
        ListedModel("m1", context_window=40_000), ListedModel("g/new", context_window=8), ListedModel("g/x")
    )
    discovery = Discovery(live, store, {"on": lister}, blocking=_at_once)
    return CatalogueService(live, ModelSwitches(live, store), discovery, caller)


@pytest.fixture
def call(servicer: CatalogueService) -> SyncRpc:
    """The servicer as gRPC calls it."""
    return SyncRpc(SERVICE, servicer)


def test_every_known_model_is_listed(call: SyncRpc) -> None:
    """Served or not, with where it is from, who serves it in which order, and prices in USD for a token."""
    listed = call("ListCatalogueModels", pb.ListCatalogueModelsRequest())
    first, second = listed.models
    assert listed.snapshot_date == "2026-11-25"
    assert (first.model.id, first.enabled, first.served, first.source) == (
        "g/bundled",
        True,
        True,
        pb.MODEL_SOURCE_BUNDLED,
    )
    assert (second.model.id, second.enabled, second.served, second.source) == (
        "my/own",
        True,
        False,
        pb.MODEL_SOURCE_FILE,
    )
    assert [(u.provider, u.upstream_model, u.switched_on, u.priority, u.weight) for u in first.upstreams] == [
        ("on", "m1", True, 0, 1),
        ("off", "m2", False, 1, 3),
    ]
    assert first.upstreams[0].pricing.prompt == "0.00000015"
    assert not first.upstreams[1].HasField("pricing")
    assert first.model.full_context_messages == 3
    assert [u.priority for u in second.upstreams] == [4]


def test_a_model_is_switched_and_named(call: SyncRpc) -> None:
    """Each answer is the model as it is now."""
    off = call("SetModelEnabled", pb.SetModelEnabledRequest(id="g/bundled")).model
    assert (off.enabled, off.served) == (False, False)
    on = call("SetModelEnabled", pb.SetModelEnabledRequest(id="g/bundled", enabled=True)).model
    assert (on.enabled, on.served) == (True, True)
    named = call("SetModelAlias", pb.SetModelAliasRequest(alias="fast", model_id="g/bundled")).model
    assert list(named.aliases) == ["fast"]
    call("DeleteModelAlias", pb.DeleteModelAliasRequest(alias="fast"))
    assert list(call("ListCatalogueModels", pb.ListCatalogueModelsRequest()).models[0].aliases) == []


def test_a_missing_alias_is_not_found(servicer: CatalogueService) -> None:
    """Forgetting what is not there is an error, so that a typing mistake is noticed."""
    with pytest.raises(ModelNotFound) as caught:
        servicer.DeleteModelAlias(pb.DeleteModelAliasRequest(alias="fast"), None)
    assert caught.value.metadata == {"model": "fast"}


async def test_lists_are_read(servicer: CatalogueService, call: SyncRpc) -> None:
    """A dry run tells what a real one then writes; discovered models say that they are."""
    dry = await servicer.SyncModels(pb.SyncModelsRequest(dry_run=True), None)
    assert [(d.model_id, d.upstream_model, d.change) for d in dry.differences] == [
        ("on/new", "g/new", pb.MODEL_CHANGE_ADDED),
        ("g/bundled", "m1", pb.MODEL_CHANGE_CHANGED),
        ("on/x", "g/x", pb.MODEL_CHANGE_INCOMPLETE),
    ]
    assert not dry.written
    real = await servicer.SyncModels(pb.SyncModelsRequest(providers=["on"]), None)
    assert (list(real.differences), real.written) == (list(dry.differences), True)
    models = {entry.model.id: entry for entry in call("ListCatalogueModels", pb.ListCatalogueModelsRequest()).models}
    assert (models["on/new"].source, models["on/new"].served) == (pb.MODEL_SOURCE_DISCOVERED, True)


async def test_the_catalogue_is_the_platforms(servicer: CatalogueService, caller: FakeCaller) -> None:
    """No RPC of the service is for an ordinary key."""
    caller.principal = Principal("key_2", 1, "ws_1", frozenset({INFERENCE}))
    for method, request in (
        (servicer.ListCatalogueModels, pb.ListCatalogueModelsRequest()),
        (servicer.SetModelEnabled, pb.SetModelEnabledRequest(id="g/bundled")),
        (servicer.SetModelAlias, pb.SetModelAliasRequest(alias="a", model_id="g/bundled")),
        (servicer.DeleteModelAlias, pb.DeleteModelAliasRequest(alias="a")),
    ):
        with pytest.raises(ScopeMissing):
            method(request, None)  # type: ignore[operator]
    with pytest.raises(ScopeMissing):
        await servicer.SyncModels(pb.SyncModelsRequest(), None)
