"""A scripted upstream with OpenAI-compatible providers that point at it, for tests of the provider."""

from fakes.scripted_upstream import ScriptedUpstream

from quillgate.v1.chat_completion_pb2 import ChatCompletion, ChatCompletionChunk
from quillgate_codec import chat_request
from quillgate_core.providers.http_pool import HttpPool
from quillgate_core.providers.openai_compatible import OpenAICompatible
from quillgate_core.providers.provider_limits import ProviderLimits
from quillgate_core.secret import Secret

REQUEST = chat_request.from_json(b'{"model": "public", "messages": [{"role": "user", "content": "hi"}]}')


class ProviderSite:
    """An upstream and the providers that point at it."""

    def __init__(self, upstream: ScriptedUpstream) -> None:
        self.upstream = upstream
        self.pool = HttpPool()

    def provider(self, limits: ProviderLimits | None = None, *, path: str = "") -> OpenAICompatible:
        """Makes a provider on the site's pool."""
        return OpenAICompatible(
            name="fake",
            base_url=self.upstream.base_url + path,
            api_key=Secret("house-key-42"),
            pool=self.pool,
            limits=limits or ProviderLimits(),
            extra_headers={"X-Title": "Quillgate"},
        )

    async def create(self, limits: ProviderLimits | None = None) -> ChatCompletion:
        """Asks for a whole answer."""
        provider = self.provider(limits)
        return await provider.create_chat(
            provider.prepare_chat(REQUEST, model="m", stream=False, max_output_tokens=None)
        )

    async def stream(
        self, into: list[ChatCompletionChunk], limits: ProviderLimits | None = None
    ) -> list[ChatCompletionChunk]:
        """Reads a whole stream into the list, which keeps what came before an exception."""
        provider = self.provider(limits)
        prepared = provider.prepare_chat(REQUEST, model="m", stream=True, max_output_tokens=None)
        async for chunks in provider.stream_chat(prepared):
            assert chunks
            into += chunks
        return into

    async def text(self, limits: ProviderLimits | None = None) -> str:
        """Reads a whole stream and returns its text."""
        return text_of(await self.stream([], limits))


def text_of(chunks: list[ChatCompletionChunk]) -> str:
    """The text that the chunks add up to."""
    return "".join(choice.delta.content for chunk in chunks for choice in chunk.choices)
