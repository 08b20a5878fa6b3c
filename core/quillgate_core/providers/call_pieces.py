"""Gives the pieces of a stream's tool calls the indexes that clients join them by. Pure.

OpenAI numbers the calls of an answer. Some servers leave the number out, and some give every call the number 0, so that
clients would join two calls into one that is none. A piece with a name and an id that is new begins a call.
"""

from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class _Calls:
    """The calls of one choice: where the pieces with a server's number belong, and the last that began."""

    places: dict[Any, int] = field(default_factory=dict)
    ids: dict[int, Any] = field(default_factory=dict)
    last: int = 0


class CallPieces:
    """The state of one stream."""

    def __init__(self) -> None:
        self._choices: dict[Any, _Calls] = {}

    def number(self, chunk: dict[str, Any]) -> None:
        """Numbers the pieces in a decoded chunk, in place."""
        choices = chunk.get("choices")
        for choice in choices if type(choices) is list else ():
            delta = choice.get("delta") if type(choice) is dict else None
            pieces = delta.get("tool_calls") if type(delta) is dict else None
            if type(pieces) is list:
                index = choice.get("index")
                calls = self._choices.setdefault(index if type(index) is int else 0, _Calls())
                for piece in pieces:
                    if type(piece) is dict:
                        piece["index"] = _place(piece, calls)


def _place(piece: dict[str, Any], calls: _Calls) -> int:
    number = piece.get("index") if type(piece.get("index")) is int else None
    function = piece.get("function") or piece.get("custom")
    is_named = type(function) is dict and bool(function.get("name"))
    call_id = piece.get("id")
    known = calls.places.get(number)
    if known is None and number is None and not is_named:
        return calls.last
    if known is None or (is_named and (number is None or (call_id and call_id != calls.ids.get(known)))):
        known = number if number is not None and number not in calls.ids else max(calls.ids, default=-1) + 1
        calls.places[number] = known
        calls.ids[known] = call_id
        calls.last = known
        return known
    # Older versions of vLLM make up an id for every piece; clients would join them.
    piece.pop("id", None)
    piece.pop("type", None)
    return known
