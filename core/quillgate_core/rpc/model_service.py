"""ModelService: the catalogue, as the caller's key may see it."""

from collections.abc import Sequence
from typing import Any, get_args

from quillgate.v1 import model_service_pb2 as pb
from quillgate.v1.model_service_pb2_grpc import ModelServiceServicer
from quillgate_core.catalogue import Catalogue, Endpoint, Model
from quillgate_core.errors import InvalidRequest, ModelNotFound
from quillgate_core.principal import INFERENCE
from quillgate_core.router import Router
from quillgate_core.routing import Ranked
from quillgate_core.rpc.call import CurrentCall, current_call


class ModelService(ModelServiceServicer):
    """Serves the model RPCs."""

    def __init__(self, catalogue: Catalogue, router: Router, call: CurrentCall = current_call) -> None:
        self._catalogue = catalogue
        self._router = router
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
        principal = self._call().principal
        principal.require(INFERENCE)
        workspace_id = principal.workspace(request.workspace_id)
        if not request.id:
            raise InvalidRequest("Missing required parameter: 'id'.", param="id", code="missing_required_parameter")
        if request.endpoint not in ("", *get_args(Endpoint)):
            known = ", ".join(get_args(Endpoint))
            raise InvalidRequest(
                f"Invalid value for 'endpoint': it must be one of {known}.", param="endpoint", code="invalid_value"
            )
        if not principal.may_use(request.id):
            raise ModelNotFound(request.id)
        model = self._router.model(workspace_id, request.id)
        endpoint: Endpoint = request.endpoint or model.endpoints[0]  # type: ignore[assignment]
        if endpoint not in model.endpoints:
            message = f"The model `{model.id}` does not support the endpoint `{endpoint}`."
            raise InvalidRequest(message, param="endpoint", code="unsupported_value")
        ranked = self._router.explain(workspace_id, model, endpoint, session=request.session)
        return pb.ExplainModelResponse(model=model.id, steps=self._steps(ranked))

    def _steps(self, ranked: Sequence[Ranked]) -> list[pb.RouteStep]:
        """Only so many are tried as one request may try; the others would be, were these not there."""
        steps = []
        for place, entry in enumerate(ranked):
            step = _step(entry)
            if step.eligible and place >= self._router.max_attempts:
                step.eligible = False
                step.reason += f"; but a request is sent to {self._router.max_attempts} at most"
            steps.append(step)
        return steps


def _step(entry: Ranked) -> pb.RouteStep:
    candidate, view = entry.candidate, entry.view
    return pb.RouteStep(
        provider=candidate.upstream.provider,
        upstream_model=candidate.upstream.model,
        eligible=entry.eligible,
        reason=entry.reason,
        byok=bool(candidate.owner),
        priority=candidate.priority,
        weight=candidate.upstream.weight,
        breaker=view.breaker,
        in_flight=view.in_flight,
        max_in_flight=candidate.account.max_in_flight,
        latency_ms=round(view.latency_s * 1_000, 3),
        recent_requests=view.recent_requests,
        recent_failures=view.recent_failures,
    )


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
