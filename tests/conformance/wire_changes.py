"""Changes a vendor's good answers on the wire, whatever its format: the body, every JSON value in it, its usage."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from conformance.vendor import Content, Spent, Vendor
from fakes.scripted_upstream import ScriptedAnswer

Change = Callable[[Any], Any]
"""Makes another value of a decoded JSON value."""


def body_of(answer: ScriptedAnswer) -> bytes:
    """The body of an answer, joined."""
    return b"".join(step for step in answer.steps if isinstance(step, bytes))


def headers_of(vendor: Vendor, *, stream: bool) -> Mapping[str, str]:
    """The vendor's headers of a whole or a streamed answer, without the length."""
    answer = vendor.stream([]) if stream else vendor.answer(Content(words=["a"]))
    return {name: value for name, value in answer.headers.items() if name.lower() != "content-length"}


def good_body(vendor: Vendor, content: Content, *, stream: bool) -> bytes:
    """The bytes of a good answer, whole or streamed."""
    return b"".join(vendor.frames(content)) if stream else body_of(vendor.answer(content))


def changed_body(vendor: Vendor, content: Content, change: Change, *, stream: bool) -> bytes:
    """A good answer with every JSON value changed: the whole body, or the data of each frame."""
    if stream:
        return b"".join(changed_frame(frame, change) for frame in vendor.frames(content))
    return _dumps(change(json.loads(body_of(vendor.answer(content)))))


def changed_frame(frame: bytes, change: Change) -> bytes:
    """A frame whose data is changed, if it is JSON."""
    return b"\n".join(_changed_line(line, change) for line in frame.split(b"\n"))


def _changed_line(line: bytes, change: Change) -> bytes:
    if not line.startswith(b"data:"):
        return line
    try:
        value = json.loads(line[5:])
    except ValueError:
        return line
    return b"data: " + _dumps(change(value))


def everywhere(node_change: Change) -> Change:
    """A change of every node of a value, the inner ones first."""

    def change(value: Any) -> Any:
        if isinstance(value, dict):
            value = {name: change(item) for name, item in value.items()}
        elif isinstance(value, list):
            value = [change(item) for item in value]
        return node_change(value)

    return change


def places(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The path of every node of a value, the value itself first."""
    yield path
    steps = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, item in steps:
        yield from places(item, (*path, step))


def replaced(value: Any, path: Sequence[str | int], item: Any) -> Any:
    """The value with another item at a path."""
    if not path:
        return item
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = replaced(value[path[0]], path[1:], item)
    return copy


def usage_twice(vendor: Vendor, words: Sequence[str], first: Spent, second: Spent) -> bytes:
    """A stream whose last frame with the usage comes a second time, with another one."""
    frames = vendor.frames(Content(words=words, spent=first))
    others = vendor.frames(Content(words=words, spent=second))
    place = max(index for index, (one, two) in enumerate(zip(frames, others, strict=True)) if one != two)
    return b"".join([*frames[: place + 1], others[place], *frames[place + 1 :]])


def _dumps(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
