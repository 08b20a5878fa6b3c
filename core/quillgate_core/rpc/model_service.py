"""ModelService: the catalogue, as the caller's key may see it."""

from typing import Any

from quillgate.v1 import model_service_pb2 as pb
from quillgate.v1.model_service_pb2_grpc import ModelServiceServicer
from quillgate_core.catalogue import Catalogue, Model
from quillgate_core.errors import InvalidRequest, ModelNotFound
from quillgate_core.principal import INFERENCE
from quillgate_core.rpc.call import CurrentCall, current_call


class ModelService(ModelServiceServicer):
    """Serves the model RPCs."""

    def __init__(self, catalogue: Catalogue, call: CurrentCall = current_call) -> None:
        self._catalogue = catalogue
        self._call = call

    async def ListModels(self, request: pb.ListModelsRequest, context: Any) -> pb.ListModelsResponse:  # noqa: N802
        """Lists the models that the key may use."""
        principal = self._call().principal
        principal.require(INFERENCE)
        items = [_model(model) for model in self._catalogue.list() if principal.may_use(model.id)]
        return pb.ListModelsResponse(models=pb.ModelList(object="list", data=pb.ModelArray(items=items)))

    async def GetModel(self, request: pb.GetModelRequest, context: Any) -> pb.GetModelResponse:  # noqa: N802
        """Returns one of the models that the key may use."""
        principal = self._call().principal
        principal.require(INFERENCE)
        if not request.id:
            raise InvalidRequest("Missing required parameter: 'id'.", param="id", code="missing_required_parameter")
        model = self._catalogue.get(request.id)
        if not principal.may_use(model.id):
            raise ModelNotFound(request.id)
        return pb.GetModelResponse(model=_model(model))

    async def ExplainModel(  # noqa: N802
        self, request: pb.ExplainModelRequest, context: Any
    ) -> pb.ExplainModelResponse:
        """Tells where a request would go."""
        raise NotImplementedError


def _model(model: Model) -> pb.Model:
    return pb.Model(
        id=model.id,
        object="model",
        created=model.created,
        owned_by=model.owner,
        description=model.description or None,
        context_window=model.context_window,
        max_output_tokens=model.max_output_tokens,
        input_modalities=model.input_modalities,
        output_modalities=model.output_modalities,
        endpoints=model.endpoints,
    )
