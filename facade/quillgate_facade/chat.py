"""`POST /chat/completions`: parse, ask the core, render; in one piece or as a stream of server-sent events."""

from functools import partial

from aiohttp import web

from quillgate.v1.completion_service_pb2 import (
    ANSWER_ENCODING_JSON,
    CreateChatCompletionRequest,
    StreamChatCompletionRequest,
    StreamChatCompletionResponse,
)
from quillgate_codec import JsonError, chat_answer, chat_chunk, chat_request
from quillgate_facade.answers import JSON_HEADERS
from quillgate_facade.body import read_body
from quillgate_facade.config import FacadeConfig
from quillgate_facade.core_client import CoreClient
from quillgate_facade.credential import credential_of
from quillgate_facade.drain import Drain
from quillgate_facade.errors import from_json_error
from quillgate_facade.relay import Relay, Wire, receipt_headers
from quillgate_facade.sse import data_frames, written_frames


class ChatHandler:
    """Answers chat completions."""

    def __init__(self, core: CoreClient, config: FacadeConfig, drain: Drain) -> None:
        self._completions = core.completions
        self._config = config
        self._relay = Relay(config, drain)

    async def create(self, request: web.Request) -> web.StreamResponse:
        """Answers one request; `stream` in the body decides how."""
        credential = credential_of(request.headers)
        body = await read_body(request, self._config)
        try:
            chat = chat_request.from_json(body)
        except JsonError as error:
            raise from_json_error(error) from None
        if chat.stream:
            question = StreamChatCompletionRequest(completion=chat, encoding=ANSWER_ENCODING_JSON)
            wire = Wire(partial(_frames, with_usage=chat.stream_options.include_usage))
            ask = self._completions.StreamChatCompletion
            return await self._relay.stream(request, ask, question, wire, credential=credential)
        answer = await self._relay.answer(
            request,
            self._completions.CreateChatCompletion,
            CreateChatCompletionRequest(completion=chat, encoding=ANSWER_ENCODING_JSON),
            credential=credential,
        )
        headers = {**JSON_HEADERS, **receipt_headers(answer.receipt, answer.upstream)}
        # A core that is older than this facade, as in a rolling restart, answers in messages.
        body = answer.completion_json or chat_answer.to_json(answer.completion)
        return web.Response(body=body, headers=headers)


def _frames(message: StreamChatCompletionResponse, *, with_usage: bool) -> bytes | bytearray:
    if message.chunks_json:
        return written_frames(message.chunks_json)
    return data_frames(chat_chunk, message.chunks, with_usage=with_usage)
