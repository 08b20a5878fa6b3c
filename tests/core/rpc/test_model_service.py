"""ModelService shows a key the models that it may use, and nothing of the others."""

import pytest
from fakes.sync_rpc import FakeCaller

from quillgate.v1 import model_service_pb2 as pb
from quillgate_core.catalogue import Catalogue, Model, ModelUpstream
from quillgate_core.errors import InvalidRequest, ModelNotFound, QuillgateError, ScopeMissing
from quillgate_core.own_keys import OwnKey, WorkspaceKeys
from quillgate_core.pricing import Price, PriceTier
from quillgate_core.principal import INFERENCE, USAGE_READ, Principal
from quillgate_core.router import Router
from quillgate_core.rpc.model_service import ModelService
from quillgate_core.upstream import Account


def _model(model_id: str, provider: str = "on", description: str = "") -> Model:
    return Model(
        id=model_id,
        context_window=100,
        max_output_tokens=10,
        upstreams=(ModelUpstream(provider, "up"),),
        description=description,
        created=7,
    )


def _service(*allowed_models: str, scope: str = INFERENCE) -> ModelService:
    models = [_model("g/b", description="Does b."), _model("g/a"), _model("g/off", provider="off")]
    principal = Principal("key_1", 1, "ws_1", frozenset({scope}), allowed_models)
    catalogue = Catalogue(models, providers=["on"])
    return ModelService(catalogue, Router(catalogue, {"on": Account("on")}), FakeCaller(principal))


async def test_models_are_listed_by_id() -> None:
    """Every served model with what OpenAI clients want to know, and our own members beside it."""
    response = await _service().ListModels(pb.ListModelsRequest(), None)
    first, second = response.models.data.items
    assert response.models.object == "list"
    assert (first.id, first.object, first.created, first.owned_by) == ("g/a", "model", 7, "g")
    assert (first.context_window, first.max_output_tokens, first.HasField("description")) == (100, 10, False)
    assert (list(first.input_modalities), list(first.output_modalities)) == (["text"], ["text"])
    assert list(first.endpoints) == ["chat.completions", "completions", "responses"]
    assert (second.id, second.description) == ("g/b", "Does b.")
    assert (await _service().GetModel(pb.GetModelRequest(id="g/b"), None)).model == second


async def test_allow_list_hides_the_others() -> None:
    """A key with a list sees that list, and an empty result is still a list."""
    listed = await _service("g/b", "g/off").ListModels(pb.ListModelsRequest(), None)
    assert [model.id for model in listed.models.data.items] == ["g/b"]
    nothing = await _service("g/none").ListModels(pb.ListModelsRequest(), None)
    assert nothing.models.HasField("data")


@pytest.mark.parametrize(
    ("service", "model_id", "error", "metadata"),
    [
        (_service(), "", InvalidRequest, {"param": "id", "code": "missing_required_parameter"}),
        (_service(), "g/none", ModelNotFound, {"model": "g/none"}),
        (_service(), "g/off", ModelNotFound, {"model": "g/off"}),
        (_service("g/b"), "g/a", ModelNotFound, {"model": "g/a"}),
        (_service(scope=USAGE_READ), "g/a", ScopeMissing, {"scope": INFERENCE}),
    ],
)
async def test_other_models_are_unknown(
    service: ModelService, model_id: str, error: type[QuillgateError], metadata: dict[str, str]
) -> None:
    """A model that is off, forbidden or not there is answered alike."""
    with pytest.raises(error) as caught:
        await service.GetModel(pb.GetModelRequest(id=model_id), None)
    assert caught.value.metadata == metadata


async def test_listing_needs_inference() -> None:
    """A key that only reads usage learns no models."""
    with pytest.raises(ScopeMissing) as caught:
        await _service(scope=USAGE_READ).ListModels(pb.ListModelsRequest(), None)
    assert caught.value.metadata == {"scope": INFERENCE}


PRICE = Price("0.15", "0.6", cached_input="0", tiers=(PriceTier(9, "3", "4", "1", "2"), PriceTier(5, "1", "2")))


async def test_prices_are_those_of_the_first_upstream() -> None:
    """In USD for one token, exact and without exponents, tiers by their thresholds; what is not known is absent."""
    upstreams = (ModelUpstream("on", "dear", priority=2, price=Price("9", "9")), ModelUpstream("on", "m", price=PRICE))
    models = [
        Model(id="g/priced", context_window=32_001, max_output_tokens=9, upstreams=upstreams),
        _model("g/unknown"),
    ]
    principal = Principal("key_1", 1, "ws_1", frozenset({INFERENCE}))
    catalogue = Catalogue(models, providers=["on"])
    service = ModelService(catalogue, Router(catalogue, {}), FakeCaller(principal))
    model = (await service.GetModel(pb.GetModelRequest(id="g/priced"), None)).model
    assert model.pricing == pb.ModelPricing(
        prompt="0.00000015",
        completion="0.0000006",
        input_cache_read="0",
        tiers=[
            pb.ModelPricingTier(above_prompt_tokens=5, prompt="0.000001", completion="0.000002"),
            pb.ModelPricingTier(
                above_prompt_tokens=9,
                prompt="0.000003",
                completion="0.000004",
                input_cache_read="0.000001",
                input_cache_write="0.000002",
            ),
        ],
    )
    assert model.full_context_messages == 3
    assert not (await service.GetModel(pb.GetModelRequest(id="g/unknown"), None)).model.HasField("pricing")


async def test_alias_is_told_under_its_own_name() -> None:
    """Whoever asks for an alias gets its model as that alias; lists show an alias only to a key whose list names it."""
    catalogue = Catalogue([_model("g/a"), _model("g/b")], providers=["on"], aliases={"fast": "g/b", "slow": "g/off"})
    listed = {}
    for allowed in ((), ("g/b",), ("fast", "slow", "g/a")):
        caller = FakeCaller(Principal("k", 1, "ws_1", frozenset({INFERENCE}), allowed))
        service = ModelService(catalogue, Router(catalogue, {}), caller)
        response = await service.ListModels(pb.ListModelsRequest(), None)
        listed[allowed] = [model.id for model in response.models.data.items]
        model = (await service.GetModel(pb.GetModelRequest(id="fast"), None)).model
        assert (model.id, model.owned_by) == ("fast", "g")
    assert listed == {(): ["g/a", "g/b"], ("g/b",): ["g/b"], ("fast", "slow", "g/a"): ["fast", "g/a"]}


class _Keys:
    """One workspace has a key of its own."""

    def of(self, workspace_id: str) -> WorkspaceKeys:
        keys = {"off": OwnKey("off", False, lambda: Account("off"))} if workspace_id == "ws_own" else {}
        return WorkspaceKeys(len(keys), keys)

    def refresh(self) -> None:
        """Nothing changes."""


async def test_own_keys_open_models_to_their_workspace() -> None:
    """What only a workspace's own key serves is there for that workspace, and unknown to the others."""
    catalogue = Catalogue([_model("g/a"), _model("g/off", provider="off")], providers=["on"])
    seen = {}
    for workspace_id in ("ws_own", "ws_other"):
        principal = Principal("key_1", 1, workspace_id, frozenset({INFERENCE}))
        service = ModelService(catalogue, Router(catalogue, {}, own_keys=_Keys()), FakeCaller(principal))
        response = await service.ListModels(pb.ListModelsRequest(), None)
        seen[workspace_id] = [model.id for model in response.models.data.items]
    assert seen == {"ws_own": ["g/a", "g/off"], "ws_other": ["g/a"]}
    with pytest.raises(ModelNotFound):
        await service.GetModel(pb.GetModelRequest(id="g/off"), None)
