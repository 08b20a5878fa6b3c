"""`GET /models` and `GET /models/{id}`: the catalogue as the core lists it for the key that asks."""

from aiohttp import web
from quillgate.v1.model_service_pb2 import GetModelRequest, ListModelsRequest
from quillgate_codec import model, model_list

from quillgate_facade.answers import JSON_HEADERS
from quillgate_facade.config import FacadeConfig
from quillgate_facade.core_client import CoreClient, call_metadata, translated_errors
from quillgate_facade.credential import credential_of
from quillgate_facade.errors import ApiError
from quillgate_facade.exchange import EXCHANGE


class ModelsHandler:
    """Answers questions about models."""

    def __init__(self, core: CoreClient, config: FacadeConfig) -> None:
        self._models = core.models
        self._timeout_s = config.call_timeout_s

    async def list(self, request: web.Request) -> web.Response:
        """Lists the models that the key may use."""
        credential = credential_of(request.headers)
        request_id = request[EXCHANGE].request_id
        with translated_errors(credential=credential, request_id=request_id):
            answer = await self._models.ListModels(
                ListModelsRequest(),
                metadata=call_metadata(credential=credential, request_id=request_id),
                timeout=self._timeout_s,
            )
        return web.Response(body=model_list.to_json(answer.models), headers=JSON_HEADERS)

    async def get(self, request: web.Request) -> web.Response:
        """Describes one model; its id may hold slashes, raw or percent-encoded."""
        credential = credential_of(request.headers)
        request_id = request[EXCHANGE].request_id
        try:
            with translated_errors(credential=credential, request_id=request_id):
                answer = await self._models.GetModel(
                    GetModelRequest(id=request.match_info["model"]),
                    metadata=call_metadata(credential=credential, request_id=request_id),
                    timeout=self._timeout_s,
                )
        except ApiError as error:
            if error.code == "model_not_found":
                error.param = "model"
            raise
        return web.Response(body=model.to_json(answer.model), headers=JSON_HEADERS)
