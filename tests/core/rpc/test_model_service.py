"""ModelService shows a key the models that it may use, and nothing of the others."""

import pytest
from fakes.sync_rpc import FakeCaller

from quillgate.v1 import model_service_pb2 as pb
from quillgate_core.catalogue import Catalogue, Model, ModelUpstream
from quillgate_core.errors import InvalidRequest, ModelNotFound, QuillgateError, ScopeMissing
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
