"""What is known of a streamed chat answer while it streams, in whatever form its chunks come. Pure, no I/O.

ChatTally follows messages, JsonChatTally decoded JSON. Both judge by this whether an answer is whole, and what it used.
"""

from collections.abc import Callable
from typing import Any, ClassVar, Final, Generic, TypeVar

import msgspec

from quillgate.v1.chat_completion_pb2 import ChatCompletionRequest
from quillgate_core.counting import Usage
from quillgate_core.errors import ProviderUnavailable
from quillgate_core.reservation import UsageSource

BYTES_PER_TOKEN: Final = 4
"""Used for estimates only, where a provider reports no usage: English text has about 4 bytes a token."""

ReportT = TypeVar("ReportT")


class ChatProgress(Generic[ReportT]):
    """The state of one stream; `model` is what chunks call the model, the request's own by default."""

    #: Returns the metered part of a provider's report.
    _usage_of: ClassVar[Callable[[Any], Usage]]

    def __init__(
        self,
        request: ChatCompletionRequest,
        *,
        fallback_id: str,
        created: int,
        provider: str,
        model: str = "",
    ) -> None:
        self._model = model or request.model
        self._include_usage = request.stream_options.include_usage
        self._prompt_bytes = request.ByteSize()
        self._provider = provider
        self._id = ""
        self._fallback_id = fallback_id
        self._created = created
        self._reported: ReportT | None = None
        self._reported_bytes = 0
        self._begun: set[int] = set()
        self._finished: set[int] = set()
        self._output_bytes = 0
        self.started = False
        """Whether the caller has been given any output."""
        self.upstream_id = ""
        """The provider's own id of the answer."""

    def finish(self) -> None:
        """Raises ProviderUnavailable for a stream that ended before every choice had its finish_reason.

        Passed on as if it were whole, some clients ask again without end and others take half an answer for all of it.
        """
        if not self._begun or self._begun != self._finished:
            raise ProviderUnavailable("The provider ended the answer before it was complete.", provider=self._provider)

    def usage(self) -> tuple[Usage, UsageSource]:
        """Returns what the request used so far: the provider's last word, or an estimate."""
        if self._reported is None:
            return estimate(self._prompt_bytes, self._output_bytes), "estimate"
        usage = type(self)._usage_of(self._reported)
        if self._begun == self._finished:
            return usage, "provider"
        return grown(usage, self._output_bytes - self._reported_bytes)

    def failure(self, error: Exception) -> list[Any]:
        """Returns nothing: an error after chunks is the caller's to tell."""
        return []


def estimate(prompt_bytes: int, output_bytes: int) -> Usage:
    """Returns a usage guessed from sizes, rounded up."""
    return Usage(-(-prompt_bytes // BYTES_PER_TOKEN), 0, -(-output_bytes // BYTES_PER_TOKEN))


def grown(usage: Usage, later_bytes: int) -> tuple[Usage, UsageSource]:
    """Returns the usage of an answer that was cut, told before so many bytes of output, and whether it is estimated.

    Providers that tell the prompt's tokens at the beginning would otherwise be asked for answers at no cost.
    """
    if later_bytes <= 0:
        return usage, "provider"
    return msgspec.structs.replace(
        usage, completion_tokens=usage.completion_tokens + -(-later_bytes // BYTES_PER_TOKEN)
    ), "estimate"
