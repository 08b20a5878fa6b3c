"""A provider that fails in every way while it shall, keeps to max_tokens, and logs each request for itself.

Its tokens are four bytes each, so a gateway that sees the text can never guess less than was generated. What it wrote
just before a caller left is not billed: nobody can know whether it was read.
"""

import asyncio
import json
import random
import time
from typing import Any

from aiohttp import web
from fakes.scripted_upstream import DONE, chat_chunk, cut, usage
from faults.chaos.record import Dispatch, Record, Tokens
from faults.provider_server import ProviderServer

FAULTS = {
    "reset before the answer": 3,
    "503": 3,
    "500": 2,
    "429": 1,
    "reset within the answer": 3,
    "closed within the answer": 3,
    "without usage": 4,
    "slow": 3,
}
"""What may happen to a request, and how many of a hundred meet it."""

CHUNKS = 4
PAUSE_S = 0.08
SLOW_S = 1.5
LONG_SHARE = 0.25
MAX_LONG_TOKENS = 40_000
MAX_SHORT_TOKENS = 200


class AilingProvider(ProviderServer):
    """The server, as an async context manager; it ails while `is_ailing`, and waits around `pause_s` before a chunk."""

    def __init__(self, record: Record, chance: random.Random) -> None:
        self._record = record
        self._chance = chance
        self.is_ailing = True
        self.pause_s = PAUSE_S

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer, or fail in one of many ways."""
        asked = await request.json()
        prompt = asked["messages"][0]["content"]
        dispatch = self._record.dispatch(prompt.split()[0], time.time())
        fault = self._fault()
        try:
            if fault == "slow":
                await asyncio.sleep(SLOW_S)
            if fault == "reset before the answer":
                dispatch.fate = fault
                await cut(request, reset=True)
            if fault.isdigit():
                dispatch.fate = fault
                return web.json_response({"error": {"message": fault}}, status=int(fault))
            tokens = self._tokens(asked, prompt)
            answer = self._stream if asked.get("stream") else self._whole
            return await answer(request, dispatch, tokens, fault)
        except ConnectionError:
            return web.Response()  # to nobody
        finally:
            if dispatch.fate == "running":
                dispatch.fate = "caller gone"

    def _fault(self) -> str:
        draw = self._chance.randrange(100)
        for fault, share in FAULTS.items():
            draw -= share
            if draw < 0:
                return fault if self.is_ailing else ""
        return ""

    def _tokens(self, asked: dict[str, Any], prompt: str) -> Tokens:
        """Returns what the answer will have used: never more than was allowed."""
        limit = asked["max_tokens"] if "max_tokens" in asked else asked["max_completion_tokens"]
        is_long = asked.get("stream") and self._chance.random() < LONG_SHARE
        completion = self._chance.randint(CHUNKS, min(limit, MAX_LONG_TOKENS if is_long else MAX_SHORT_TOKENS))
        prompt_tokens = len(prompt) // 4
        return Tokens(prompt_tokens, self._chance.randint(0, prompt_tokens), completion)

    async def _whole(self, request: web.Request, dispatch: Dispatch, tokens: Tokens, fault: str) -> web.StreamResponse:
        await asyncio.sleep(self.pause_s * 2)
        body: dict[str, Any] = {
            "id": "chatcmpl-chaos",
            "object": "chat.completion",
            "created": 1_700_000_000,
            "model": "chaos",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": "word" * tokens.completion},
                    "finish_reason": "stop",
                }
            ],
        }
        if fault != "without usage":
            body["usage"] = usage(tokens.prompt, tokens.completion, tokens.cached)
        text = json.dumps(body).encode()
        response = web.StreamResponse(headers={"content-type": "application/json", "content-length": str(len(text))})
        await response.prepare(request)
        if fault.endswith("within the answer"):
            dispatch.fate = fault
            await response.write(text[: len(text) // 2])
            await cut(request, reset=fault.startswith("reset"))
        await response.write(text)
        await response.write_eof()
        _end(dispatch, tokens, fault)
        return response

    async def _stream(self, request: web.Request, dispatch: Dispatch, tokens: Tokens, fault: str) -> web.StreamResponse:
        await asyncio.sleep(self.pause_s)
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        dispatch.billed = tokens._replace(completion=0)
        await response.write(chat_chunk({"role": "assistant", "content": ""}))
        said = 0
        for number in range(1, CHUNKS + 1):
            size = tokens.completion * number // CHUNKS - said
            await response.write(chat_chunk({"content": "word" * size}))
            await asyncio.sleep(self.pause_s * self._chance.uniform(0.5, 2))
            said += size
            dispatch.billed = tokens._replace(completion=said)
            if fault.endswith("within the answer") and number == CHUNKS // 2:
                dispatch.fate = fault
                await cut(request, reset=fault.startswith("reset"))
        end = [chat_chunk({}, finish_reason="stop")]
        if fault != "without usage":
            end.append(chat_chunk(None, usage=usage(tokens.prompt, tokens.completion, tokens.cached)))
        await response.write(b"".join([*end, DONE]))
        await response.write_eof()
        _end(dispatch, tokens, fault)
        return response


def _end(dispatch: Dispatch, tokens: Tokens, fault: str) -> None:
    dispatch.fate = "whole"
    dispatch.billed = tokens
    dispatch.reported = None if fault == "without usage" else tokens
