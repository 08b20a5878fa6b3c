"""What the core asks of a provider: a small protocol that each file in `providers/` fulfils. Pure declarations.

A provider never decides what to charge and never retries; it translates, sends, reads within its limits and raises the
exceptions of `errors`.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import msgspec

from quillgate.v1.chat_completion_pb2 import ChatCompletion, ChatCompletionChunk, ChatCompletionRequest
from quillgate.v1.response_pb2 import Response, ResponseEvent, ResponseItem, ResponseRequest
from quillgate.v1.text_completion_pb2 import TextCompletion, TextCompletionRequest
from quillgate.v1.transcription_pb2 import Transcription, TranscriptionEvent, TranscriptionOptions
from quillgate_core.catalogue import Modality
from quillgate_core.counting import Usage
from quillgate_core.pricing import Price

Capability: TypeAlias = Literal[
    "stream",
    "tools",
    "parallel_tools",
    "images",
    "files",
    "audio",
    "reasoning",
    "json_object",
    "json_schema",
    "logprobs",
    "choices",
    "cache_control",
    "completions",
    "responses",
    "transcriptions",
]
"""What a provider can be asked for besides text: `files` are PDF and other documents, `choices` is `n` above 1."""


@dataclass(frozen=True, slots=True)
class Traits:
    """What is particular to a provider, as far as others must know it."""

    cached_tokens: Literal["inside", "outside"]
    """Whether the provider's own count of prompt tokens includes those read from a cache. Its adapter adds them where
    it does not, so that a `CompletionUsage` always has them inside."""
    cancel_stops_bill: bool
    """Whether closing the connection ends the provider's work and its bill."""
    supports: frozenset[Capability]
    """What it can be asked for; the rest raises InvalidRequest in `prepare_chat`, or goes through chat."""
    needs_output_limit: bool = False
    """Whether every request to it must state an output limit: one without its own then gets the model's."""


class PreparedChat(msgspec.Struct, frozen=True):
    """A chat request that is ready to send: translated, checked, and not yet dispatched."""

    body: bytes
    stream: bool


class ChatProvider(Protocol):
    """A service that answers chat completions."""

    @property
    def name(self) -> str:
        """The provider's name in the catalogue, errors and ledger, such as `openrouter`."""

    @property
    def traits(self) -> Traits:
        """What is particular to it."""

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


class JsonChatProvider(Protocol):
    """A ChatProvider whose answers are OpenAI's JSON already, and so need not become messages on their way."""

    async def create_chat_value(self, prepared: PreparedChat) -> dict[str, Any]:
        """Answers as create_chat does, with the decoded JSON; it is the caller's to change."""

    def stream_chat_values(self, prepared: PreparedChat) -> AsyncIterator[list[dict[str, Any] | bytes]]:
        """Answers as stream_chat does, with decoded chunks; they are the caller's to change.

        Bytes are the chunk before them once more, with them as the `content` of its one choice: JSON text that is not
        empty, without its quotes and with no escapes but the short ones. That chunk says words, perhaps a role, and
        nothing else.
        """


class PreparedText(msgspec.Struct, frozen=True):
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


class PreparedResponse(msgspec.Struct, frozen=True):
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


@dataclass(frozen=True, slots=True)
class ListedModel:
    """A model as a provider's own list tells it; None or empty is what the list does not say."""

    model: str
    """The provider's name for it."""
    context_window: int | None = None
    max_output_tokens: int | None = None
    input_modalities: tuple[Modality, ...] = ()
    output_modalities: tuple[Modality, ...] = ()
    price: Price | None = None
    description: str = ""
    created: int = 0


class ModelLister(Protocol):
    """A service that tells which models it has."""

    async def list_models(self) -> Sequence[ListedModel]:
        """Asks the provider, with the account's key; raises as create_chat does.

        It costs nothing, so it is also how a key is tried: a key that the provider refuses raises ProviderUnavailable
        for the gateway's own, ProviderCredentialRejected for a workspace's.
        """


@dataclass(frozen=True, slots=True)
class FoundUsage:
    """What a provider says of a request that ended before it told its usage."""

    usage: Usage
    cost_picodollars: int | None = None


class UsageLookup(Protocol):
    """A service that can be asked afterwards what a request used."""

    async def look_up(self, upstream_request_id: str) -> FoundUsage | None:
        """Asks by the provider's own id of the answer; None when the provider does not know yet.

        Raises as create_chat does.
        """


@dataclass(frozen=True, slots=True)
class Account:
    """A provider and one key with it: what can be asked, endpoint by endpoint. None: the provider has no such thing."""

    provider: str
    """The provider's name in the catalogue."""
    byok: bool = False
    """Whether the key is a workspace's own."""
    chat: ChatProvider | None = None
    json_chat: JsonChatProvider | None = None
    """The same as `chat`, where it has the answers as JSON."""
    text: TextProvider | None = None
    responses: ResponseProvider | None = None
    transcriptions: TranscriptionProvider | None = None
    lister: ModelLister | None = None
    usage_lookup: UsageLookup | None = None
    max_in_flight: int = 0
    """Most requests that one core process has under way there; 0: no limit."""
    drains: bool = False
    """Whether an answer is read on to its usage when its caller leaves, because the provider bills all of it anyway."""
