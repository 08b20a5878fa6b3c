"""ModelService: the catalogue, as the caller's key may see it."""

from collections.abc import Iterator, Sequence
from typing import Any, get_args

from quillgate.v1 import model_service_pb2 as pb
from quillgate.v1.model_service_pb2_grpc import ModelServiceServicer
from quillgate_core.catalogue import Endpoint, Model, Models
from quillgate_core.errors import InvalidRequest, ModelNotAllowed, ModelNotFound
from quillgate_core.model_access import usable_model
from quillgate_core.principal import INFERENCE, Principal
from quillgate_core.router import Router
from quillgate_core.routing import Ranked
from quillgate_core.rpc.call import CurrentCall, current_call
from quillgate_core.rpc.model_convert import from_model


class ModelService(ModelServiceServicer):
    """Serves the model RPCs."""

    def __init__(self, models: Models, router: Router, call: CurrentCall = current_call) -> None:
        self._models = models
        self._router = router
        self._call = call

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
        model = self._usable(principal, request.id, principal.workspace_id)
        return pb.GetModelResponse(model=from_model(model, asked=request.id))

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
        model = self._usable(principal, request.id, workspace_id)
        endpoint: Endpoint = request.endpoint or model.endpoints[0]  # type: ignore[assignment]
        if endpoint not in model.endpoints:
            message = f"The model `{model.id}` does not support the endpoint `{endpoint}`."
            raise InvalidRequest(message, param="endpoint", code="unsupported_value")
        ranked = self._router.explain(workspace_id, model, endpoint, session=request.session)
        return pb.ExplainModelResponse(model=model.id, steps=self._steps(ranked))

    def _usable(self, principal: Principal, model_id: str, workspace_id: str) -> Model:
        """Returns a model that the key may ask for; of any other it does not learn whether it exists."""
        try:
            return usable_model(self._models, principal, model_id, self._router.own_providers(workspace_id))
        except ModelNotAllowed:
            raise ModelNotFound(model_id) from None

    def _listed(self, principal: Principal) -> Iterator[pb.Model]:
        """Yields what the key may ask for, sorted by id: models, and the aliases that its allow-list names."""
        own = self._router.own_providers(principal.workspace_id)
        found = {model.id: model for model in self._models.list(own) if principal.may_use(model.id)}
        for name in principal.allowed_models:
            if name not in found:
                try:
                    found[name] = self._models.get(name, own)
                except ModelNotFound:
                    continue
        for name, model in sorted(found.items()):
            yield from_model(model, asked=name)

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
