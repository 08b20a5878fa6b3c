"""What the core asks of a provider: a small protocol that each file in `providers/` fulfils. Pure declarations.

A provider never decides what to charge and never retries; it translates, sends, reads within its limits and raises the
exceptions of `errors`.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from quillgate.v1.chat_completion_pb2 import ChatCompletion, ChatCompletionChunk, ChatCompletionRequest
from quillgate.v1.response_pb2 import Response, ResponseEvent, ResponseItem, ResponseRequest
from quillgate.v1.text_completion_pb2 import TextCompletion, TextCompletionRequest
from quillgate.v1.transcription_pb2 import Transcription, TranscriptionEvent, TranscriptionOptions
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


@dataclass(frozen=True, slots=True)
class PreparedText:
    """A text completion request that is ready to send: translated, checked, and not yet dispatched."""

    body: bytes
    stream: bool


class TextProvider(Protocol):
    """A service that answers text completions itself."""

    @property
    def name(self) -> str:
        """The provider's name in the catalogue, errors and ledger."""

    def prepare_text(
        self, request: TextCompletionRequest, *, model: str, stream: bool, max_output_tokens: int | None
    ) -> PreparedText:
        """Translates the request as ChatProvider.prepare_chat does."""

    async def create_text(self, prepared: PreparedText) -> TextCompletion:
        """Sends the request and returns the whole answer as the provider gave it; raises as create_chat does."""

    def stream_text(self, prepared: PreparedText) -> AsyncIterator[list[TextCompletion]]:
        """Sends the request and yields, in order, the pieces that arrived together; as stream_chat in all else."""


@dataclass(frozen=True, slots=True)
class TranscriptionTask:
    """An uploaded sound at `path`, how to transcribe it, and the provider's own name for the model.

    `options.response_format` is `json`, `verbose_json` or `diarized_json`. The file is the caller's and outlives the
    call.
    """

    path: Path
    options: TranscriptionOptions
    model: str


class TranscriptionProvider(Protocol):
    """A service that turns speech into text."""

    @property
    def name(self) -> str:
        """The provider's name in the catalogue, errors and ledger."""

    def check_transcription(self, task: TranscriptionTask) -> None:
        """Raises InvalidRequest for options that the provider can never serve; does no I/O."""

    async def create_transcription(self, task: TranscriptionTask) -> Transcription:
        """Returns the whole answer as the provider gave it; raises and is cancelled as create_chat."""

    def stream_transcription(self, task: TranscriptionTask) -> AsyncIterator[list[TranscriptionEvent]]:
        """Yields, in order, the events that arrived together; raises and is closed as stream_chat.

        A provider that cannot stream gives the whole text as one delta and the end.
        """

    async def close(self) -> None:
        """Closes what is idle. Nothing may be under way."""


@dataclass(frozen=True, slots=True)
class PreparedResponse:
    """A response request that is ready to send: translated, checked, and not yet dispatched."""

    body: bytes
    stream: bool


class ResponseProvider(Protocol):
    """A service that speaks the Responses API itself."""

    @property
    def name(self) -> str:
        """The provider's name in the catalogue, errors and ledger."""

    def prepare_response(
        self,
        request: ResponseRequest,
        items: Sequence[ResponseItem],
        *,
        model: str,
        stream: bool,
        max_output_tokens: int | None,
    ) -> PreparedResponse:
        """Translates the request as ChatProvider.prepare_chat does.

        `items` is the whole conversation and stands for the request's input and what it continues: the provider keeps
        nothing.
        """

    async def create_response(self, prepared: PreparedResponse) -> Response:
        """Sends the request and returns the whole answer as the provider gave it; raises as create_chat does."""

    def stream_response(self, prepared: PreparedResponse) -> AsyncIterator[list[ResponseEvent]]:
        """Sends the request and yields, in order, the events that arrived together; as stream_chat in all else.

        An `error` event and `response.failed` are raised.
        """
