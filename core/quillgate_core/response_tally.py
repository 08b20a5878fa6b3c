"""Follows one response while it is made: a Tally for each of the two ways to make one. Pure, no I/O.

Both ways end in the same kinds of events under our ids; nothing is told before the provider has said something, so that
an earlier failure keeps its status.
"""

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from quillgate.v1.chat_completion_pb2 import ChatCompletionChunk, CompletionUsage
from quillgate.v1.response_pb2 import Response, ResponseEvent, ResponseUsage
from quillgate_core.chat_progress import estimate
from quillgate_core.chat_tally import ChatTally, is_usage, reported, usage_of
from quillgate_core.counting import Usage
from quillgate_core.errors import ProviderUnavailable
from quillgate_core.reservation import UsageSource
from quillgate_core.response_answer import failure_of
from quillgate_core.response_answer import usage_of as shown_usage
from quillgate_core.response_chat import ChatTranslation
from quillgate_core.response_items import EventLog, add_error, add_response
from quillgate_core.response_stream import ResponseStream

TERMINAL = {"response.completed": "completed", "response.incomplete": "incomplete"}
_PROVIDERS_OWN = (
    *("completed_at", "incomplete_details", "output", "reasoning", "service_tier", "temperature", "text", "top_p"),
    *("usage", "extra_json"),
)
"""Members of a native response that are the provider's to say; all others are the request's."""
_OPENING = frozenset({"response.created", "response.queued", "response.in_progress"})


class MadeResponse(Protocol):
    """What both tallies give besides events."""

    @property
    def response(self) -> Response:
        """The response as it is now; whole once the provider is done."""


class ChatResponseTally:
    """Makes a response of chat chunks; a Tally for Metered."""

    def __init__(
        self,
        opened: Response,
        translation: ChatTranslation,
        *,
        provider: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._chat = ChatTally(translation.request, fallback_id=opened.id, created=opened.created_at, provider=provider)
        self._stream = ResponseStream(opened, translation.tools)
        self._clock = clock

    @property
    def response(self) -> Response:
        """The response as it is now; whole after `finish`."""
        return self._stream.response

    @property
    def started(self) -> bool:
        """Whether the caller has been given any event."""
        return self._chat.started

    @property
    def upstream_id(self) -> str:
        """The provider's own id of the answer."""
        return self._chat.upstream_id

    def take(self, received: Sequence[ChatCompletionChunk]) -> list[ResponseEvent]:
        """Returns the events of some chunks."""
        return self._stream.take(self._chat.take(received))

    def finish(self) -> None:
        """Makes the response whole; raises ProviderUnavailable for a stream that was cut."""
        self._chat.finish()
        self._stream.close(self._usage(), completed_at=int(self._clock()))

    def usage(self) -> tuple[Usage, UsageSource]:
        """Returns what was used so far: the provider's last word, or an estimate."""
        return self._chat.usage()

    def last(self) -> list[ResponseEvent]:
        """Returns what ends the items, and the response."""
        return self._stream.end()

    def failure(self, error: Exception) -> list[ResponseEvent]:
        """Returns the `error` event and `response.failed`."""
        return self._stream.fail(error, self._usage())

    def _usage(self) -> CompletionUsage:
        (chunk,) = self._chat.last()
        return chunk.usage


class NativeResponseTally:
    """Passes on the events of a provider that speaks Responses, as a response of ours; a Tally for Metered.

    Events and items that are not known here survive. The provider's ids of items are kept: encrypted thoughts may be
    tied to them.
    """

    def __init__(self, opened: Response, *, prompt_bytes: int, provider: str) -> None:
        self._opened = opened
        self._prompt_bytes = prompt_bytes
        self._provider = provider
        self._events = EventLog()
        self._final: Response | None = None
        self._reported: Usage | None = None
        self._status = ""
        self._output_bytes = 0
        self.started = False
        self.upstream_id = ""

    @property
    def response(self) -> Response:
        """The response as it is now; whole once the provider has ended it."""
        return self._final if self._final is not None else self._opened

    def take(self, received: Sequence[ResponseEvent]) -> list[ResponseEvent]:
        """Returns the events to pass on; the one that ends the response is kept back until it is settled."""
        for event in received:
            if not self.started:
                self.started = True
                add_response(self._events, "created", self._opened)
                add_response(self._events, "in_progress", self._opened)
            if event.type in TERMINAL:
                self._end(event)
            elif event.type not in _OPENING:
                self._output_bytes += len(event.delta.encode())
                self._events.pass_on(event)
        return self._events.take()

    def finish(self) -> None:
        """Raises ProviderUnavailable for a stream that ended without its last event."""
        if self._final is None:
            raise ProviderUnavailable("The provider ended the answer before it was complete.", provider=self._provider)

    def usage(self) -> tuple[Usage, UsageSource]:
        """Returns what was used: the provider's word at the end, until then an estimate."""
        if self._reported is not None:
            return self._reported, "provider"
        return estimate(self._prompt_bytes, self._output_bytes), "estimate"

    def last(self) -> list[ResponseEvent]:
        """Returns the event that ends the response."""
        add_response(self._events, self._status, self.response)
        return self._events.take()

    def failure(self, error: Exception) -> list[ResponseEvent]:
        """Returns the `error` event and `response.failed`."""
        shown, told = failure_of(error)
        add_error(self._events, told)
        failed = Response()
        failed.CopyFrom(self._opened)
        failed.status = "failed"
        failed.error.CopyFrom(shown)
        failed.usage.CopyFrom(shown_usage(reported(self.usage()[0])))
        add_response(self._events, "failed", failed)
        return self._events.take()

    def _end(self, event: ResponseEvent) -> None:
        if self._final is not None:
            return
        self._status = TERMINAL[event.type]
        final = Response()
        final.CopyFrom(event.response)
        self._output_bytes = max(self._output_bytes, sum(item.ByteSize() for item in final.output))
        _make_ours(final, self._opened)
        final.status = self._status
        self._final = final
        told = _as_chat_usage(final.usage)
        if is_usage(told):
            self._reported = usage_of(told)
        else:
            final.usage.CopyFrom(shown_usage(reported(self.usage()[0])))
        _complete(final.usage)


def _make_ours(final: Response, opened: Response) -> None:
    """Puts our own in place of what the provider says of the request; it knows another one, and another model."""
    told = Response()
    told.CopyFrom(final)
    final.CopyFrom(opened)
    for name in _PROVIDERS_OWN:
        final.ClearField(name)  # type: ignore[arg-type]  # the stub wants literals
    kept = {field.name: value for field, value in told.ListFields() if field.name in _PROVIDERS_OWN}
    final.MergeFrom(Response(**kept))


def _as_chat_usage(usage: ResponseUsage) -> CompletionUsage:
    told = CompletionUsage(prompt_tokens=usage.input_tokens, completion_tokens=usage.output_tokens)
    told.prompt_tokens_details.cached_tokens = usage.input_tokens_details.cached_tokens
    told.prompt_tokens_details.cache_write_tokens = usage.input_tokens_details.cache_write_tokens
    return told


def _complete(usage: ResponseUsage) -> None:
    """Makes the details say 0 where the provider said nothing."""
    whole = ResponseUsage()
    whole.input_tokens_details.cached_tokens = 0
    whole.input_tokens_details.cache_write_tokens = 0
    whole.output_tokens_details.reasoning_tokens = 0
    whole.total_tokens = usage.input_tokens + usage.output_tokens
    whole.MergeFrom(usage)
    usage.CopyFrom(whole)
