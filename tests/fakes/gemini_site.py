"""A scripted upstream with Gemini providers that point at it, and what Gemini says, for tests of the provider."""

import itertools
import json
from collections.abc import Mapping
from typing import Any

from fakes.scripted_upstream import ScriptedUpstream

from quillgate.v1.chat_completion_pb2 import ChatCompletion, ChatCompletionChunk, ChatCompletionRequest
from quillgate_codec import chat_request
from quillgate_core.providers.gemini import Gemini
from quillgate_core.providers.http_pool import HttpPool
from quillgate_core.providers.provider_limits import ProviderLimits
from quillgate_core.secret import Secret


class GeminiSite:
    """An upstream and the providers that point at it."""

    def __init__(self, upstream: ScriptedUpstream) -> None:
        self.upstream = upstream
        self.pool = HttpPool()

    def provider(self, limits: ProviderLimits | None = None) -> Gemini:
        """Makes a provider on the site's pool, whose calls without an id are `made-0`, `made-1`."""
        count = itertools.count()
        return Gemini(
            name="gemini",
            base_url=self.upstream.base_url,
            api_key=Secret("house-key-42"),
            pool=self.pool,
            limits=limits or ProviderLimits(),
            new_call_id=lambda: f"made-{next(count)}",
        )

    async def create(self, members: Mapping[str, Any] | None = None) -> ChatCompletion:
        """Asks for a whole answer."""
        provider = self.provider()
        prepared = provider.prepare_chat(
            request_of(members or {}), model="gemini-2.5-flash", stream=False, max_output_tokens=None
        )
        return await provider.create_chat(prepared)

    async def stream(
        self,
        into: list[ChatCompletionChunk] | None = None,
        limits: ProviderLimits | None = None,
        members: Mapping[str, Any] | None = None,
    ) -> list[ChatCompletionChunk]:
        """Reads a whole stream into the list, which keeps what came before an exception."""
        into = [] if into is None else into
        provider = self.provider(limits)
        prepared = provider.prepare_chat(
            request_of(members or {}), model="gemini-2.5-flash", stream=True, max_output_tokens=None
        )
        async for chunks in provider.stream_chat(prepared):
            assert chunks
            into += chunks
        return into


def request_of(members: Mapping[str, Any]) -> ChatCompletionRequest:
    """A chat request with these members, by default one that says hi."""
    value = {"model": "public", "messages": [{"role": "user", "content": "hi"}], **members}
    return chat_request.from_json(json.dumps(value).encode())


def response(*parts: dict[str, Any], reason: str | None = None, index: int = 0, **members: Any) -> dict[str, Any]:
    """A GenerateContentResponse with one candidate."""
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": list(parts)}, "index": index}
    if reason is not None:
        candidate["finishReason"] = reason
    return {"candidates": [candidate], "responseId": "r1", "modelVersion": "gemini-2.5-flash", **members}


def text_of(chunks: list[ChatCompletionChunk]) -> str:
    """The text that the chunks add up to."""
    return "".join(choice.delta.content for chunk in chunks for choice in chunk.choices)


def ends_of(chunks: list[ChatCompletionChunk]) -> list[str]:
    """The reasons to end that the chunks tell."""
    return [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason]
