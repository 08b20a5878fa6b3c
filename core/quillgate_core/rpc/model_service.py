"""ModelService: the catalogue, as the caller's key may see it."""

from collections.abc import Iterator
from typing import Any

from quillgate.v1 import model_service_pb2 as pb
from quillgate.v1.model_service_pb2_grpc import ModelServiceServicer
from quillgate_core.catalogue import NO_PROVIDERS, Models
from quillgate_core.errors import InvalidRequest, ModelNotAllowed, ModelNotFound
from quillgate_core.model_access import usable_model
from quillgate_core.own_keys import OwnKeys
from quillgate_core.principal import INFERENCE, Principal
from quillgate_core.rpc.call import CurrentCall, current_call
from quillgate_core.rpc.model_convert import from_model


class ModelService(ModelServiceServicer):
    """Serves the model RPCs; without `own_keys` no workspace has any."""

    def __init__(self, models: Models, call: CurrentCall = current_call, *, own_keys: OwnKeys | None = None) -> None:
        self._models = models
        self._call = call
        self._own_keys = own_keys

    async def ListModels(self, request: pb.ListModelsRequest, context: Any) -> pb.ListModelsResponse:  # noqa: N802
        """Lists the models that the key may use."""
        principal = self._call().principal
        principal.require(INFERENCE)
        items = [*self._listed(principal)]
        return pb.ListModelsResponse(models=pb.ModelList(object="list", data=pb.ModelArray(items=items)))

    async def GetModel(self, request: pb.GetModelRequest, context: Any) -> pb.GetModelResponse:  # noqa: N802
        """Returns one of the models that the key may use, under the name that was asked for."""
        principal = self._call().principal
        principal.require(INFERENCE)
        if not request.id:
            raise InvalidRequest("Missing required parameter: 'id'.", param="id", code="missing_required_parameter")
        try:
            model = usable_model(self._models, principal, request.id, self._own(principal))
        except ModelNotAllowed:
            raise ModelNotFound(request.id) from None
        return pb.GetModelResponse(model=from_model(model, asked=request.id))

    async def ExplainModel(  # noqa: N802
        self, request: pb.ExplainModelRequest, context: Any
    ) -> pb.ExplainModelResponse:
        """Tells where a request would go."""
        raise NotImplementedError

    def _listed(self, principal: Principal) -> Iterator[pb.Model]:
        """Yields what the key may ask for, sorted by id: models, and the aliases that its allow-list names."""
        own = self._own(principal)
        found = {model.id: model for model in self._models.list(own) if principal.may_use(model.id)}
        for name in principal.allowed_models:
            if name not in found:
                try:
                    found[name] = self._models.get(name, own)
                except ModelNotFound:
                    continue
        for name, model in sorted(found.items()):
            yield from_model(model, asked=name)

    def _own(self, principal: Principal) -> frozenset[str]:
        if self._own_keys is None:
            return NO_PROVIDERS
        return frozenset(self._own_keys.of(principal.workspace_id).keys)
