"""A provider without faults that takes its time: streams of some seconds, and a log of each request for itself."""

import asyncio
import json
import random
import time

from aiohttp import web
from fakes.scripted_upstream import DONE, chat_chunk, usage
from faults.chaos.record import Dispatch, Record, Tokens
from faults.provider_server import ProviderServer

CHUNK_S = 1.0
"""Between two chunks of a stream."""

UNARY_S = 0.05
WORDS = 3


class SteadyProvider(ProviderServer):
    """The server, as an async context manager; its streams take from `least_s` to `most_s` seconds."""

    def __init__(self, record: Record, chance: random.Random, least_s: float, most_s: float) -> None:
        self._record = record
        self._chance = chance
        self._least_s = least_s
        self._most_s = most_s
        self.running_streams = 0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer in one piece, or as a stream of some seconds."""
        asked = json.loads(await request.read())
        prompt = asked["messages"][0]["content"]
        dispatch = self._record.dispatch(prompt.split()[0], time.time())
        try:
            return await (self._stream if asked.get("stream") else self._whole)(request, dispatch, len(prompt) // 4)
        finally:
            if dispatch.fate == "running":
                dispatch.fate = "caller gone"

    async def _whole(self, request: web.Request, dispatch: Dispatch, prompt_tokens: int) -> web.StreamResponse:
        await asyncio.sleep(UNARY_S)
        tokens = Tokens(prompt_tokens, 0, WORDS)
        body = {
            "id": "chatcmpl-rolling",
            "object": "chat.completion",
            "created": 1_700_000_000,
            "model": "rolling",
            "choices": [
                {"index": 0, "message": {"role": "assistant", "content": "word" * WORDS}, "finish_reason": "stop"}
            ],
            "usage": usage(tokens.prompt, tokens.completion),
        }
        _end(dispatch, tokens)
        return web.json_response(body)

    async def _stream(self, request: web.Request, dispatch: Dispatch, prompt_tokens: int) -> web.StreamResponse:
        self.running_streams += 1
        try:
            response = web.StreamResponse(headers={"content-type": "text/event-stream"})
            await response.prepare(request)
            await response.write(chat_chunk({"role": "assistant", "content": ""}))
            left_s, said = self._chance.uniform(self._least_s, self._most_s), 0
            while left_s > 0:
                pause_s = min(CHUNK_S, left_s)
                await asyncio.sleep(pause_s)
                left_s -= pause_s
                said += 1
                dispatch.billed = Tokens(prompt_tokens, 0, said)
                await response.write(chat_chunk({"content": "word"}))
            tokens = Tokens(prompt_tokens, 0, said)
            used = chat_chunk(None, usage=usage(tokens.prompt, tokens.completion))
            await response.write(b"".join([chat_chunk({}, finish_reason="stop"), used, DONE]))
            await response.write_eof()
        finally:
            self.running_streams -= 1
        _end(dispatch, tokens)
        return response


def _end(dispatch: Dispatch, tokens: Tokens) -> None:
    dispatch.fate = "whole"
    dispatch.billed = dispatch.reported = tokens
