"""Turns chat chunks into the events of one response: the only place that knows their order. Pure, no I/O.

    created  in_progress  item*  (completed | incomplete | error failed)
    item       = added  what belongs to it  done
    message    = (part added  deltas  text or refusal done  part done)+
    reasoning  = deltas  text done, as a summary within a part
    call       = deltas  arguments done

Thoughts and messages end when something else begins. Calls stay open until the end, because providers interleave the
arguments of parallel ones. A whole answer goes through here as one chunk, so it cannot differ from a streamed one.
"""

import uuid
from collections.abc import Iterable, Mapping

from quillgate.v1.chat_completion_pb2 import (
    Annotation,
    ChatCompletionChunk,
    ChatDelta,
    ChunkChoice,
    CompletionUsage,
    ToolCall,
)
from quillgate.v1.response_pb2 import Response, ResponseEvent
from quillgate_codec import provider_chat_chunk
from quillgate_core.response_answer import failure_of, usage_of
from quillgate_core.response_input import output_item_id
from quillgate_core.response_items import (
    EventLog,
    OpenCall,
    OpenItem,
    OpenMessage,
    OpenReasoning,
    add_error,
    add_response,
)
from quillgate_core.response_tools import CallerTool

_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}


class ResponseStream:
    """The state of one response: `take` chunks in order, `close`, then `end`; or `fail` at any time after a chunk."""

    def __init__(self, response: Response, tools: Mapping[str, CallerTool]) -> None:
        self.response = response
        """The response as it is now; whole after `close`."""
        self._tools = tools
        self._as_summary = response.reasoning.summary not in ("", "none")
        self._events = EventLog()
        self._items: list[OpenItem] = []
        self._calls: dict[int, OpenCall] = {}
        self._unnamed: dict[int, ToolCall] = {}
        self._last_call = 0
        self._finish_reason = ""
        self._has_begun = False

    def take(self, chunks: Iterable[ChatCompletionChunk]) -> list[ResponseEvent]:
        """Returns the events of some chunks; choices other than the first are left out."""
        for chunk in chunks:
            self._begin()
            if chunk.service_tier:
                self.response.service_tier = chunk.service_tier
            for choice in chunk.choices:
                if choice.index == 0:
                    self._take_choice(choice)
        return self._events.take()

    def close(self, usage: CompletionUsage, *, completed_at: int) -> None:
        """Ends what is open and makes `response` whole; `completed_at` in seconds since 1970."""
        reason = _INCOMPLETE.get(self._finish_reason)
        for call in self._unnamed.values():
            self._open_call(call)
        if not self._items:
            self._message().begin_text()
        self._close_all("incomplete" if reason else "completed")
        response = self.response
        response.output.extend(item.item for item in self._items)
        response.usage.CopyFrom(usage_of(usage))
        if response.service_tier == "auto":
            response.service_tier = "default"
        if reason:
            response.status = "incomplete"
            response.incomplete_details.reason = reason
        else:
            response.status = "completed"
            response.completed_at = completed_at

    def end(self) -> list[ResponseEvent]:
        """Returns the events that end a response which is closed."""
        add_response(self._events, self.response.status, self.response)
        return self._events.take()

    def fail(self, error: Exception, usage: CompletionUsage) -> list[ResponseEvent]:
        """Returns the events that end a response which went wrong, with the output as far as it came."""
        shown, told = failure_of(error)
        add_error(self._events, told)
        response = self.response
        del response.output[:]
        response.output.extend(item.snapshot() for item in self._items)
        response.status = "failed"
        response.error.CopyFrom(shown)
        response.usage.CopyFrom(usage_of(usage))
        for name in ("incomplete_details", "completed_at"):
            response.ClearField(name)
        add_response(self._events, "failed", response)
        return self._events.take()

    def _begin(self) -> None:
        if not self._has_begun:
            self._has_begun = True
            add_response(self._events, "created", self.response)
            add_response(self._events, "in_progress", self.response)

    def _take_choice(self, choice: ChunkChoice) -> None:
        delta = choice.delta
        if thoughts := delta.reasoning_content or delta.reasoning:
            self._reasoning().add(thoughts)
        if delta.content:
            self._message().add_text(delta.content, _logprobs(choice))
        if delta.refusal:
            self._message().add_refusal(delta.refusal)
        self._annotate(delta)
        for call in delta.tool_calls:
            self._take_call(call)
        if choice.finish_reason:
            self._finish_reason = choice.finish_reason

    def _annotate(self, delta: ChatDelta) -> None:
        for annotation in delta.annotations:
            if annotation.type == "url_citation":
                self._message().annotate(_citation(annotation))

    def _take_call(self, call: ToolCall) -> None:
        """Adds to a call, opening it once its name is known; some providers number none, or number them all 0."""
        index = self._last_call = call.index if call.HasField("index") else self._last_call
        running = self._calls.get(index)
        if running is not None and not _begins_another(call, running):
            running.add(call.function.arguments)
            return
        known = self._unnamed.setdefault(index, ToolCall(index=index))
        known.id = known.id or call.id
        known.function.name += call.function.name
        known.function.arguments += call.function.arguments
        if known.function.name:
            del self._unnamed[index]
            self._open_call(known)

    def _open_call(self, call: ToolCall) -> None:
        self._close_said()
        tool = self._tools.get(call.function.name) or CallerTool("function", call.function.name)
        made = OpenCall(
            self._events,
            self._new_id("custom_tool_call" if tool.kind == "custom" else "function_call"),
            len(self._items),
            call_id=call.id or f"call_{uuid.uuid4().hex}",
            tool=tool,
        )
        self._calls[call.index] = made
        self._items.append(made)
        made.add(call.function.arguments)

    def _reasoning(self) -> OpenReasoning:
        open_item = self._open_item()
        if isinstance(open_item, OpenReasoning):
            return open_item
        self._close_said()
        made = OpenReasoning(self._events, self._new_id("reasoning"), len(self._items), as_summary=self._as_summary)
        self._items.append(made)
        return made

    def _message(self) -> OpenMessage:
        open_item = self._open_item()
        if isinstance(open_item, OpenMessage):
            return open_item
        self._close_said()
        made = OpenMessage(self._events, self._new_id("message"), len(self._items))
        self._items.append(made)
        return made

    def _open_item(self) -> OpenItem | None:
        """Returns the thoughts or the message that are open."""
        last = self._items[-1] if self._items else None
        return None if last is None or last.is_closed else last

    def _close_said(self) -> None:
        for item in self._items:
            if not item.is_closed and not isinstance(item, OpenCall):
                item.close("completed")

    def _close_all(self, last_status: str) -> None:
        """Ends every open item in order; only the last one can be incomplete, the others were whole when it began."""
        for item in self._items:
            if not item.is_closed:
                item.close(last_status if item is self._items[-1] else "completed")

    def _new_id(self, kind: str) -> str:
        return output_item_id(self.response.id, kind, len(self._items))


def _begins_another(call: ToolCall, running: OpenCall) -> bool:
    """Tells whether a piece with the number of a running call is another call: it has a name, and not the same id."""
    if not call.function.name:
        return False
    return call.id != running.item.call_id if call.id else not call.HasField("index")


def _logprobs(choice: ChunkChoice) -> list[object]:
    if not choice.logprobs.content:
        return []
    value = provider_chat_chunk.to_value(ChatCompletionChunk(choices=[choice]))
    tokens = value["choices"][0]["logprobs"]["content"]
    return [{"bytes": [], "top_logprobs": [], **token} for token in tokens]


def _citation(annotation: Annotation) -> dict[str, object]:
    """Returns a source as a response has it: flat."""
    found = annotation.url_citation
    return {
        "type": "url_citation",
        "start_index": found.start_index,
        "end_index": found.end_index,
        "title": found.title,
        "url": found.url,
    }
