"""ModelService shows a key the models that it may use, and nothing of the others."""

import pytest
from fakes.fake_own_keys import FakeOwnKeys, own_key
from fakes.fake_provider import FakeProvider
from fakes.sync_rpc import FakeCaller

from quillgate.v1 import model_service_pb2 as pb
from quillgate_core.catalogue import Catalogue, Model, ModelUpstream
from quillgate_core.errors import InvalidRequest, ModelNotFound, QuillgateError, ScopeMissing
from quillgate_core.own_keys import OwnKey, WorkspaceKeys
from quillgate_core.pricing import Price, PriceTier
from quillgate_core.principal import INFERENCE, PLATFORM_ADMIN, USAGE_READ, Principal
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


ROUTED = Model("g/m", 100, 10, tuple(ModelUpstream(name, f"up-{name}", weight=2) for name in ("a", "b", "c")))


def _routed(*scopes: str, max_attempts: int = 2, allowed_models: tuple[str, ...] = ()) -> tuple[ModelService, Router]:
    """Serves a model with three upstreams, for the last of which `ws_own` has a key of its own."""
    catalogue = Catalogue([ROUTED], providers=["a", "b", "c"])
    house = {name: Account(name, chat=FakeProvider(), max_in_flight=9) for name in ("a", "b", "c")}
    own = FakeOwnKeys("ws_own", (own_key(Account("c", byok=True, chat=FakeProvider())),))
    router = Router(catalogue, house, own_keys=own, max_attempts=max_attempts)
    principal = Principal("key_1", 1, "ws_1", frozenset(scopes or {INFERENCE}), allowed_models)
    return ModelService(catalogue, router, FakeCaller(principal)), router


async def test_route_is_explained() -> None:
    """In the order in which they would be asked, with what is known of each, and why."""
    service, router = _routed(max_attempts=3)
    (candidate, *_) = router.route("ws_1", [ROUTED], "chat.completions").candidates
    running, failed = router.health.begin(candidate), router.health.begin(candidate)
    assert running is not None
    assert failed is not None
    failed.fail(cool_s=30)
    response = await service.ExplainModel(pb.ExplainModelRequest(id="g/m"), None)
    assert response.model == "g/m"
    assert [(step.provider, step.upstream_model) for step in response.steps] == [
        ("b", "up-b"), ("c", "up-c"), ("a", "up-a")
    ]  # fmt: skip
    assert all(step.eligible and not step.byok for step in response.steps)
    last = response.steps[2]
    assert (last.priority, last.weight, last.breaker) == (0, 2, "closed")
    assert (last.in_flight, last.max_in_flight) == (1, 9)
    assert (last.recent_requests, last.recent_failures) == (1, 1)
    assert 4_000 < last.latency_ms <= 5_000
    assert "it asks to be left alone" in last.reason


async def test_beyond_the_attempts_nobody_is_asked() -> None:
    """The third would be tried, were a request sent to more than two; it says so."""
    service, _ = _routed()
    response = await service.ExplainModel(pb.ExplainModelRequest(id="g/m"), None)
    assert [step.eligible for step in response.steps] == [True, True, False]
    assert response.steps[2].reason == "first in its order; but a request is sent to 2 at most"


async def test_open_breakers_are_explained() -> None:
    """They come last and say for how long."""
    service, router = _routed(max_attempts=3)
    candidate = router.route("ws_1", [ROUTED], "chat.completions").candidates[0]
    for _ in range(20):
        attempt = router.health.begin(candidate)
        assert attempt is not None
        attempt.fail()
    response = await service.ExplainModel(pb.ExplainModelRequest(id="g/m"), None)
    last = response.steps[-1]
    assert (last.provider, last.eligible, last.breaker) == ("a", False, "open")
    assert last.reason.startswith("its breaker is open for ")


async def test_other_workspaces_are_the_platform_s() -> None:
    """Whose keys would serve a workspace is told to itself and to the platform's administrators."""
    request = pb.ExplainModelRequest(id="g/m", workspace_id="ws_own")
    service, _ = _routed(INFERENCE, PLATFORM_ADMIN)
    first, *others = (await service.ExplainModel(request, None)).steps
    assert (first.provider, first.byok, first.eligible) == ("c", True, True)
    assert [(step.provider, step.eligible) for step in others] == [("a", False), ("b", False)]
    service, _ = _routed(INFERENCE)
    with pytest.raises(QuillgateError):
        await service.ExplainModel(request, None)


@pytest.mark.parametrize(
    ("request_", "allowed", "error", "metadata"),
    [
        (pb.ExplainModelRequest(), (), InvalidRequest, {"param": "id", "code": "missing_required_parameter"}),
        (pb.ExplainModelRequest(id="g/none"), (), ModelNotFound, {"model": "g/none"}),
        (pb.ExplainModelRequest(id="g/m"), ("g/other",), ModelNotFound, {"model": "g/m"}),
        (
            pb.ExplainModelRequest(id="g/m", endpoint="chat"),
            (),
            InvalidRequest,
            {"param": "endpoint", "code": "invalid_value"},
        ),
        (
            pb.ExplainModelRequest(id="g/m", endpoint="audio.transcriptions"),
            (),
            InvalidRequest,
            {"param": "endpoint", "code": "unsupported_value"},
        ),
    ],
)
async def test_what_cannot_be_explained(
    request_: pb.ExplainModelRequest,
    allowed: tuple[str, ...],
    error: type[QuillgateError],
    metadata: dict[str, str],
) -> None:
    """It is refused as the request itself would be."""
    service, _ = _routed(allowed_models=allowed)
    with pytest.raises(error) as caught:
        await service.ExplainModel(request_, None)
    assert caught.value.metadata == metadata
