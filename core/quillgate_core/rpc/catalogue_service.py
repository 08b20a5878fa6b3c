"""CatalogueService: translates between the contract and `ModelSwitches` and `Discovery`.

SyncModels waits for providers and is async; the others wait for the database and run in the interceptor's threads.
"""

from typing import Any, Final

from quillgate.v1 import catalogue_service_pb2 as pb
from quillgate.v1.catalogue_service_pb2_grpc import CatalogueServiceServicer
from quillgate_core.catalogue import KnownModel
from quillgate_core.discovery import Change, Difference, Discovery
from quillgate_core.live_catalogue import LiveCatalogue
from quillgate_core.model_switches import ModelSwitches
from quillgate_core.rpc.call import CurrentCall, current_call
from quillgate_core.rpc.model_convert import from_known

_CHANGES: "Final[dict[Change, pb.ModelChange.ValueType]]" = {
    "added": pb.MODEL_CHANGE_ADDED,
    "changed": pb.MODEL_CHANGE_CHANGED,
    "gone": pb.MODEL_CHANGE_GONE,
    "incomplete": pb.MODEL_CHANGE_INCOMPLETE,
}


class CatalogueService(CatalogueServiceServicer):
    """Serves the catalogue RPCs."""

    def __init__(
        self,
        live: LiveCatalogue,
        switches: ModelSwitches,
        discovery: Discovery,
        call: CurrentCall = current_call,
    ) -> None:
        self._live = live
        self._switches = switches
        self._discovery = discovery
        self._call = call

    def ListCatalogueModels(  # noqa: N802
        self, request: pb.ListCatalogueModelsRequest, context: Any
    ) -> pb.ListCatalogueModelsResponse:
        """Lists every model that is known."""
        models = self._switches.list(self._call().principal)
        return pb.ListCatalogueModelsResponse(
            models=[self._model(model) for model in models], snapshot_date=self._live.basis.snapshot_date
        )

    def SetModelEnabled(  # noqa: N802
        self, request: pb.SetModelEnabledRequest, context: Any
    ) -> pb.SetModelEnabledResponse:
        """Switches a model."""
        model = self._switches.set_enabled(self._call().principal, request.id, enabled=request.enabled)
        return pb.SetModelEnabledResponse(model=self._model(model))

    def SetModelAlias(self, request: pb.SetModelAliasRequest, context: Any) -> pb.SetModelAliasResponse:  # noqa: N802
        """Names a model once more."""
        model = self._switches.set_alias(self._call().principal, request.alias, request.model_id)
        return pb.SetModelAliasResponse(model=self._model(model))

    def DeleteModelAlias(  # noqa: N802
        self, request: pb.DeleteModelAliasRequest, context: Any
    ) -> pb.DeleteModelAliasResponse:
        """Forgets an alias."""
        self._switches.delete_alias(self._call().principal, request.alias)
        return pb.DeleteModelAliasResponse()

    async def SyncModels(self, request: pb.SyncModelsRequest, context: Any) -> pb.SyncModelsResponse:  # noqa: N802
        """Reads what providers serve now."""
        sync = await self._discovery.sync(self._call().principal, tuple(request.providers), dry_run=request.dry_run)
        return pb.SyncModelsResponse(
            differences=[_difference(difference) for difference in sync.differences],
            failures=sync.failures,
            written=sync.written,
        )

    def _model(self, known: KnownModel) -> pb.CatalogueModel:
        return from_known(known, self._live.catalogue.providers)


def _difference(difference: Difference) -> pb.ModelDifference:
    return pb.ModelDifference(
        provider=difference.provider,
        upstream_model=difference.upstream_model,
        model_id=difference.model_id,
        change=_CHANGES[difference.change],
        detail=difference.detail,
    )
