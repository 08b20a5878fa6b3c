"""`/responses`: make one, in one piece or as events, and read, forget and list what was stored."""

from http import HTTPStatus

import msgspec
from aiohttp import web

from quillgate.v1.completion_service_pb2 import (
    CreateResponseRequest,
    StreamResponseRequest,
    StreamResponseResponse,
)
from quillgate.v1.response_pb2 import ResponseRequest
from quillgate.v1.response_service_pb2 import (
    DeleteResponseRequest,
    GetResponseRequest,
    GetResponseResponse,
    ListResponseInputItemsRequest,
)
from quillgate_codec import JsonError, response, response_item_page, response_request
from quillgate_facade.answers import JSON_HEADERS
from quillgate_facade.body import read_body
from quillgate_facade.config import FacadeConfig
from quillgate_facade.core_client import CoreClient
from quillgate_facade.credential import credential_of
from quillgate_facade.drain import Drain
from quillgate_facade.errors import ApiError, from_json_error
from quillgate_facade.relay import Relay, Wire, receipt_headers
from quillgate_facade.response_events import ResponseEvents, ignored_header

_MAX_LIMIT_DIGITS = 9

_dumps = msgspec.json.Encoder().encode


class ResponsesHandler:
    """Answers everything under `/responses`."""

    def __init__(self, core: CoreClient, config: FacadeConfig, drain: Drain) -> None:
        self._completions = core.completions
        self._responses = core.responses
        self._config = config
        self._relay = Relay(config, drain)

    async def create(self, request: web.Request) -> web.StreamResponse:
        """Makes a response; `stream` in the body decides how."""
        credential = credential_of(request.headers)
        body = await read_body(request, self._config)
        try:
            asked = response_request.from_json(body)
        except JsonError as error:
            raise from_json_error(error) from None
        if asked.stream:
            return await self._stream(request, asked, credential)
        ask = self._completions.CreateResponse
        answer = await self._relay.answer(request, ask, CreateResponseRequest(response=asked), credential=credential)
        headers = {**JSON_HEADERS, **receipt_headers(answer.receipt, answer.upstream), **ignored_header(answer.ignored)}
        return web.Response(body=response.to_json(answer.response), headers=headers)

    async def get(self, request: web.Request) -> web.Response:
        """Returns a stored response; it cannot be streamed again."""
        if request.query.get("stream", "").lower() in ("true", "1"):
            message = "A stored response cannot be streamed. Leave `stream` out to read it in one piece."
            raise ApiError(400, message, code="unsupported_value", param="stream")
        answer = await self._find(request)
        return web.Response(body=response.to_json(answer.response), headers=JSON_HEADERS)

    async def delete(self, request: web.Request) -> web.Response:
        """Forgets a stored response."""
        credential = credential_of(request.headers)
        response_id = request.match_info["response_id"]
        question = DeleteResponseRequest(response_id=response_id)
        await self._relay.answer(
            request,
            self._responses.DeleteResponse,
            question,
            credential=credential,
            timeout_s=self._config.call_timeout_s,
        )
        return web.Response(
            body=_dumps({"id": response_id, "object": "response", "deleted": True}), headers=JSON_HEADERS
        )

    async def list_input_items(self, request: web.Request) -> web.Response:
        """Lists a page of what a stored response was made from."""
        credential = credential_of(request.headers)
        question = ListResponseInputItemsRequest(
            response_id=request.match_info["response_id"],
            limit=_limit(request.query.get("limit")),
            order=request.query.get("order", ""),
            after=request.query.get("after", ""),
        )
        answer = await self._relay.answer(
            request,
            self._responses.ListResponseInputItems,
            question,
            credential=credential,
            timeout_s=self._config.call_timeout_s,
        )
        return web.Response(body=response_item_page.to_json(answer.page), headers=JSON_HEADERS)

    async def cancel(self, request: web.Request) -> web.Response:
        """Refuses: whatever is stored was not made in the background. What does not exist is told first."""
        await self._find(request)
        message = "Only background responses can be cancelled. To stop a response, close its connection."
        raise ApiError(HTTPStatus.BAD_REQUEST, message, code="unsupported_value")

    async def _stream(self, request: web.Request, asked: ResponseRequest, credential: str) -> web.StreamResponse:
        events = ResponseEvents(model=asked.model)
        wire = Wire(events.frames, headers=_headers, end=b"", failure=events.failure)
        question = StreamResponseRequest(response=asked)
        ask = self._completions.StreamResponse
        return await self._relay.stream(request, ask, question, wire, credential=credential)

    async def _find(self, request: web.Request) -> GetResponseResponse:
        credential = credential_of(request.headers)
        return await self._relay.answer(
            request,
            self._responses.GetResponse,
            GetResponseRequest(response_id=request.match_info["response_id"]),
            credential=credential,
            timeout_s=self._config.call_timeout_s,
        )


def _headers(first: StreamResponseResponse) -> dict[str, str]:
    return ignored_header(first.ignored)


def _limit(text: str | None) -> int:
    """Returns the number of items, 0 where none is said; what the number may be is the core's to decide."""
    if text is None:
        return 0
    if text.isascii() and text.isdigit() and len(text) <= _MAX_LIMIT_DIGITS and int(text):
        return int(text)
    raise ApiError(400, "'limit' must be 1 to 100.", code="invalid_value", param="limit")
