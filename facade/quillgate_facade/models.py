"""`GET /models` and `GET /models/{id}`: the catalogue as the core lists it for the key that asks."""

from typing import Any, TypeVar

import grpc.aio
from aiohttp import web

from quillgate.v1.model_service_pb2 import GetModelRequest, ListModelsRequest
from quillgate_codec import model, model_list
from quillgate_facade.answers import JSON_HEADERS
from quillgate_facade.config import FacadeConfig
from quillgate_facade.core_client import CoreCall, CoreClient, call_metadata
from quillgate_facade.credential import credential_of
from quillgate_facade.drain import Drain
from quillgate_facade.errors import ApiError
from quillgate_facade.exchange import EXCHANGE

AnswerT = TypeVar("AnswerT")


class ModelsHandler:
    """Answers questions about models."""

    def __init__(self, core: CoreClient, config: FacadeConfig, drain: Drain) -> None:
        self._models = core.models
        self._timeout_s = config.call_timeout_s
        self._drain = drain

    async def list(self, request: web.Request) -> web.Response:
        """Lists the models that the key may use."""
        credential = credential_of(request.headers)
        metadata = call_metadata(credential=credential, request_id=request[EXCHANGE].request_id)
        call = self._models.ListModels(ListModelsRequest(), metadata=metadata, timeout=self._timeout_s)
        answer = await self._received(request, call, credential)
        return web.Response(body=model_list.to_json(answer.models), headers=JSON_HEADERS)

    async def get(self, request: web.Request) -> web.Response:
        """Describes one model; its id may hold slashes, raw or percent-encoded."""
        credential = credential_of(request.headers)
        metadata = call_metadata(credential=credential, request_id=request[EXCHANGE].request_id)
        question = GetModelRequest(id=request.match_info["model"])
        call = self._models.GetModel(question, metadata=metadata, timeout=self._timeout_s)
        try:
            answer = await self._received(request, call, credential)
        except ApiError as error:
            if error.code == "model_not_found":
                error.param = "model"  # only this endpoint names the model in its own parameter
            raise
        return web.Response(body=model.to_json(answer.model), headers=JSON_HEADERS)

    async def _received(
        self, request: web.Request, call: "grpc.aio.UnaryUnaryCall[Any, AnswerT]", credential: str
    ) -> AnswerT:
        request_id = request[EXCHANGE].request_id
        guarded = CoreCall(call, self._drain, credential=credential, request_id=request_id)
        try:
            return await guarded.receive(call)
        finally:
            guarded.close()
