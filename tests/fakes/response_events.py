"""What a stream of response events must look like: its grammar, and what the official client's types say of it."""

import re
from collections.abc import Sequence
from typing import Any, get_args

import msgspec
from openai.types.responses import Response, ResponseStreamEvent

from quillgate.v1.response_pb2 import ResponseEvent
from quillgate_codec import response_event

_LETTERS = {
    "response.created": "C",
    "response.in_progress": "I",
    "response.completed": "E",
    "response.incomplete": "E",
    "response.failed": "F",
    "error": "X",
}
"""The whole stream, one letter an event: items are `i`."""

STREAM = re.compile(r"CIi*(E|XF)")

ITEM = {
    "message": re.compile(r"A(P(d|n)*tp|Pr*RP?p)*D"),
    "reasoning": re.compile(r"A(Ps+Sp|T+U)?D"),
    "function_call": re.compile(r"Aa*bD"),
    "custom_tool_call": re.compile(r"AcgD"),
}
"""One item of each kind, one letter an event."""

_ITEM_LETTERS = {
    "response.output_item.added": "A",
    "response.output_item.done": "D",
    "response.content_part.added": "P",
    "response.content_part.done": "p",
    "response.output_text.delta": "d",
    "response.output_text.annotation.added": "n",
    "response.output_text.done": "t",
    "response.refusal.delta": "r",
    "response.refusal.done": "R",
    "response.reasoning_summary_part.added": "P",
    "response.reasoning_summary_part.done": "p",
    "response.reasoning_summary_text.delta": "s",
    "response.reasoning_summary_text.done": "S",
    "response.reasoning_text.delta": "T",
    "response.reasoning_text.done": "U",
    "response.function_call_arguments.delta": "a",
    "response.function_call_arguments.done": "b",
    "response.custom_tool_call_input.delta": "c",
    "response.custom_tool_call_input.done": "g",
}

_EVENTS = {
    get_args(kind.model_fields["type"].annotation)[0]: kind for kind in get_args(get_args(ResponseStreamEvent)[0])
}
"""The official client's class of each event."""


def as_sent(event: ResponseEvent) -> Any:
    """The event as a client reads it."""
    return msgspec.json.decode(response_event.to_json(event))


def check_stream(events: Sequence[ResponseEvent]) -> list[Any]:
    """Asserts that the stream is whole and in order, and that the official client's types take it; returns it."""
    sent = [as_sent(event) for event in events]
    assert [event["sequence_number"] for event in sent] == list(range(len(sent)))
    letters = "".join(_LETTERS.get(event["type"], "i") for event in sent)
    assert STREAM.fullmatch(letters), letters
    is_whole = sent[-1]["type"] != "response.failed"
    _check_items(sent, is_whole=is_whole)
    for event in sent:
        check_types(event)
    _check_texts(sent)
    return sent


def check_types(event: Any) -> None:
    """Asserts that the official client's types take an event, in strict mode and with every member that they demand."""
    _EVENTS[event["type"]].model_validate_json(msgspec.json.encode(event), strict=True)


def check_response(response: Any) -> None:
    """Asserts that the official client's types take a whole response, in strict mode."""
    Response.model_validate_json(msgspec.json.encode(response), strict=True)


def _check_items(sent: Sequence[Any], *, is_whole: bool) -> None:
    by_place: dict[int, list[Any]] = {}
    for event in sent:
        if "output_index" in event:
            by_place.setdefault(event["output_index"], []).append(event)
    assert list(by_place) == list(range(len(by_place)))
    for events in by_place.values():
        item = events[0]["item"]
        letters = "".join(_ITEM_LETTERS[event["type"]] for event in events)
        grammar = ITEM[item["type"]]
        if is_whole:
            assert grammar.fullmatch(letters), letters
            assert events[-1]["item"]["id"] == item["id"]
        assert {event["item_id"] for event in events if "item_id" in event} <= {item["id"]}
    output = sent[-1]["response"]["output"]
    assert len(output) == len(by_place)
    if is_whole:
        assert output == [events[-1]["item"] for events in by_place.values()]


def _check_texts(sent: Sequence[Any]) -> None:
    """Asserts that what is told at the end of a text is what was told in pieces."""
    pieces: dict[tuple[Any, ...], str] = {}
    for event in sent:
        kind, _, step = event["type"].rpartition(".")
        place = (kind, event.get("output_index"), event.get("content_index"), event.get("summary_index"))
        if step == "delta":
            pieces[place] = pieces.get(place, "") + event["delta"]
        elif step == "done" and kind.rpartition(".")[2] not in (
            "output_item",
            "content_part",
            "reasoning_summary_part",
        ):
            said = next(event[name] for name in ("text", "refusal", "arguments", "input") if name in event)
            assert pieces.get(place, "") == said
