"""The items of a response while they are streamed: each turns what is added to it into events. Pure.

An item is opened, added to, and closed once; nothing may be added after that.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from quillgate.v1.response_pb2 import Response, ResponseEvent, ResponseItem, ResponsePart
from quillgate_core.response_tools import CallerTool, custom_input

EMPTY_LIST = b"[]"
NO_ARGUMENTS = "{}"
"""What clients can read as JSON, in place of the nothing that some models write for a tool without parameters."""

_dumps = msgspec.json.Encoder().encode


class EventLog:
    """Numbers the events of a stream, from 0 without gaps, and holds those that are not yet sent."""

    def __init__(self) -> None:
        self._next = 0
        self._ready: list[ResponseEvent] = []

    def add(self, kind: str, **members: Any) -> None:
        """Adds an event; messages among the members are copied as they are now."""
        self._ready.append(ResponseEvent(type=kind, sequence_number=self._next, **members))
        self._next += 1

    def pass_on(self, event: ResponseEvent) -> None:
        """Adds an event of somebody else's stream under the next number of this one."""
        event.sequence_number = self._next
        self._ready.append(event)
        self._next += 1

    def take(self) -> list[ResponseEvent]:
        """Returns what is not yet sent."""
        ready, self._ready = self._ready, []
        return ready


class OpenItem:
    """What all kinds have in common: a place in the output, a start and an end."""

    def __init__(self, events: EventLog, item: ResponseItem, output_index: int) -> None:
        self.item = item
        self._events = events
        self._place: dict[str, Any] = {"item_id": item.id, "output_index": output_index}
        self._output_index = output_index
        self.is_closed = False

    def _open(self) -> None:
        self._events.add("response.output_item.added", output_index=self._output_index, item=self.item)

    def close(self, status: str) -> None:
        """Ends the item as `completed` or `incomplete`."""
        self._end_parts()
        self.item.status = status
        self.is_closed = True
        self._events.add("response.output_item.done", output_index=self._output_index, item=self.item)

    def snapshot(self) -> ResponseItem:
        """Returns the item as far as it is."""
        copy = ResponseItem()
        copy.CopyFrom(self.item)
        if not self.is_closed:
            copy.status = "incomplete"
        return copy

    def _end_parts(self) -> None:
        """Ends what is open within the item."""


class OpenMessage(OpenItem):
    """A message: parts of text and of refusal, one after the other."""

    def __init__(self, events: EventLog, item_id: str, output_index: int) -> None:
        item = ResponseItem(type="message", id=item_id, status="in_progress", role="assistant")
        item.content.parts.SetInParent()
        super().__init__(events, item, output_index)
        self._kind = ""
        self._pieces: list[str] = []
        self._logprobs: list[Any] = []
        self._annotations: list[Any] = []
        self._open()

    def add_text(self, delta: str, logprobs: list[Any]) -> None:
        """Adds text, with the log probabilities of its tokens if there are any."""
        self._begin("output_text")
        self._pieces.append(delta)
        self._logprobs += logprobs
        self._tell("response.output_text.delta", delta=delta, logprobs=_dumps(logprobs) if logprobs else EMPTY_LIST)

    def add_refusal(self, delta: str) -> None:
        """Adds to why the model declined."""
        self._begin("refusal")
        self._pieces.append(delta)
        self._tell("response.refusal.delta", delta=delta)

    def annotate(self, annotation: dict[str, Any]) -> None:
        """Adds a remark on the text, such as a source."""
        self._begin("output_text")
        extra = _dumps({"annotation_index": len(self._annotations), "annotation": annotation})
        self._annotations.append(annotation)
        self._tell("response.output_text.annotation.added", extra_json=extra)

    def begin_text(self) -> None:
        """Begins a text that may stay empty."""
        self._begin("output_text")

    def _begin(self, kind: str) -> None:
        if self._kind == kind:
            return
        self._end_parts()
        self._kind = kind
        self._tell("response.content_part.added", part=self._part())

    def _part(self) -> ResponsePart:
        text = "".join(self._pieces)
        if self._kind == "refusal":
            return ResponsePart(type="refusal", refusal=text)
        return ResponsePart(
            type="output_text", text=text, annotations=_dumps(self._annotations), logprobs=_dumps(self._logprobs)
        )

    def _end_parts(self) -> None:
        if not self._kind:
            return
        part = self._part()
        if self._kind == "refusal":
            self._tell("response.refusal.done", refusal=part.refusal)
        else:
            self._tell("response.output_text.done", text=part.text, logprobs=part.logprobs)
        self._tell("response.content_part.done", part=part)
        self.item.content.parts.parts.append(part)
        self._kind, self._pieces, self._logprobs, self._annotations = "", [], [], []

    def snapshot(self) -> ResponseItem:
        """Returns the message with the part that is still open."""
        copy = super().snapshot()
        if self._kind:
            copy.content.parts.parts.append(self._part())
        return copy

    def _tell(self, kind: str, **members: Any) -> None:
        self._events.add(kind, **self._place, content_index=len(self.item.content.parts.parts), **members)


class OpenReasoning(OpenItem):
    """Thoughts that a provider gives as they are: the summary for a client that asked for one, else raw text."""

    def __init__(self, events: EventLog, item_id: str, output_index: int, *, as_summary: bool) -> None:
        item = ResponseItem(type="reasoning", id=item_id, status="in_progress")
        item.summary.SetInParent()
        super().__init__(events, item, output_index)
        self._as_summary = as_summary
        self._pieces: list[str] = []
        self._open()

    def add(self, delta: str) -> None:
        """Adds to the thoughts."""
        if not self._pieces and self._as_summary:
            self._tell("response.reasoning_summary_part.added", part=ResponsePart(type="summary_text", text=""))
        self._pieces.append(delta)
        self._tell(f"{self._stem}.delta", delta=delta)

    @property
    def _stem(self) -> str:
        return "response.reasoning_summary_text" if self._as_summary else "response.reasoning_text"

    def _end_parts(self) -> None:
        if not self._pieces:
            return
        part = self._part()
        self._tell(f"{self._stem}.done", text=part.text)
        if self._as_summary:
            self._tell("response.reasoning_summary_part.done", part=part)
        self._put(self.item, part)

    def _part(self) -> ResponsePart:
        return ResponsePart(type="summary_text" if self._as_summary else "reasoning_text", text="".join(self._pieces))

    def _put(self, item: ResponseItem, part: ResponsePart) -> None:
        (item.summary if self._as_summary else item.content.parts).parts.append(part)

    def snapshot(self) -> ResponseItem:
        """Returns the thoughts as far as they are."""
        copy = super().snapshot()
        if not self.is_closed and self._pieces:
            self._put(copy, self._part())
        return copy

    def _tell(self, kind: str, **members: Any) -> None:
        position = {"summary_index": 0} if self._as_summary else {"content_index": 0}
        self._events.add(kind, **self._place, **position, **members)


class OpenCall(OpenItem):
    """A call of a function or of a custom tool, under the name that the caller gave the tool."""

    def __init__(self, events: EventLog, item_id: str, output_index: int, *, call_id: str, tool: CallerTool) -> None:
        item = ResponseItem(id=item_id, status="in_progress", call_id=call_id, name=tool.name)
        self._is_custom = tool.kind == "custom"
        if self._is_custom:
            item.type, item.input = "custom_tool_call", ""
        else:
            item.type, item.arguments = "function_call", ""
        if tool.namespace:
            item.extra_json = _dumps({"namespace": tool.namespace})
        super().__init__(events, item, output_index)
        self._pieces: list[str] = []
        self._open()

    def add(self, delta: str) -> None:
        """Adds to the arguments; the input of a custom tool, JSON inside of JSON, is told at its end only."""
        if delta:
            self._pieces.append(delta)
            if not self._is_custom:
                self._tell("response.function_call_arguments.delta", delta=delta)

    def _end_parts(self) -> None:
        if not self._pieces and not self._is_custom:
            self.add(NO_ARGUMENTS)
        text = "".join(self._pieces)
        if self._is_custom:
            self.item.input = custom_input(text)
            self._tell("response.custom_tool_call_input.delta", delta=self.item.input)
            self._tell("response.custom_tool_call_input.done", input=self.item.input)
        else:
            self.item.arguments = text
            self._tell("response.function_call_arguments.done", name=self.item.name, arguments=text)

    def snapshot(self) -> ResponseItem:
        """Returns the call as far as it is."""
        copy = super().snapshot()
        if not self.is_closed and not self._is_custom:
            copy.arguments = "".join(self._pieces)
        return copy

    def _tell(self, kind: str, **members: Any) -> None:
        self._events.add(kind, **self._place, **members)


def add_error(events: EventLog, error: Mapping[str, str | None]) -> None:
    """Adds the `error` event: flat as OpenAI documents it, nested as its live service sends it; clients read either."""
    extra: dict[str, Any] = {"error": dict(error)}
    extra |= {name: None for name in ("code", "param") if error[name] is None}
    events.add("error", code=error["code"], message=error["message"], param=error["param"], extra_json=_dumps(extra))


def add_response(events: EventLog, kind: str, response: Response) -> None:
    """Adds an event of the whole response, such as `created`."""
    events.add(f"response.{kind}", response=response)
