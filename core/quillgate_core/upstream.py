"""What the core asks of a provider: a small protocol that each file in `providers/` fulfils. Pure declarations.

A provider never decides what to charge and never retries; it translates, sends, reads within its limits and raises the
exceptions of `errors`.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from quillgate.v1.chat_completion_pb2 import ChatCompletion, ChatCompletionChunk, ChatCompletionRequest
from quillgate_core.catalogue import Endpoint


@dataclass(frozen=True, slots=True)
class PreparedChat:
    """A chat request that is ready to send: translated, checked, and not yet dispatched."""

    body: bytes
    stream: bool


class ChatProvider(Protocol):
    """A service that answers chat completions."""

    @property
    def name(self) -> str:
        """The provider's name in the catalogue, errors and ledger, such as `openrouter`."""

    @property
    def native_endpoints(self) -> frozenset[Endpoint]:
        """What the provider speaks itself; for the rest of a language model's endpoints chat is used."""

    def prepare_chat(
        self, request: ChatCompletionRequest, *, model: str, stream: bool, max_output_tokens: int | None
    ) -> PreparedChat:
        """Translates the request for the upstream model name `model`, leaving `request` as it is.

        `max_output_tokens` replaces the request's own limit when it is not None. Usage is asked for always. Raises
        InvalidRequest when the request holds what the provider can never serve.
        """

    async def create_chat(self, prepared: PreparedChat) -> ChatCompletion:
        """Sends the request and returns the whole answer as the provider gave it.

        Raises ProviderRejected, ProviderUnavailable, ProviderTimeout or Overloaded. Cancelling the coroutine closes the
        connection to the provider.
        """

    def stream_chat(self, prepared: PreparedChat) -> AsyncIterator[list[ChatCompletionChunk]]:
        """Sends the request and yields, in order, the chunks that arrived together; never an empty list.

        Chunks are as the provider gave them. The iterator ends when the provider says `[DONE]` or closes; whether the
        answer was whole is the caller's to judge. Raises like create_chat, also between chunks. Closing the iterator
        (`aclose`) or cancelling the task closes the connection to the provider.
        """

    async def close(self) -> None:
        """Closes idle connections. Nothing may be under way."""
