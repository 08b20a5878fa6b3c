"""The lossless mapping between OpenAI's JSON and the messages of `quillgate.v1`. Pure: no I/O, no state.

    body = chat_request.from_json(b'{"model": "m", "messages": [], "top_k": 5}')   # top_k is kept in extra_json
    chat_request.to_json(body)

Codecs differ in how they read (strict: a member of the wrong kind is an error, for what clients send; lenient: it is
kept as it is, for what providers send) and how they write (lossless, or as an answer: with the null members that
client libraries insist on).
"""

from itertools import repeat
from operator import contains
from typing import Any, Generic, TypeVar

import msgspec
from google.protobuf.message import Message

from quillgate_codec import mapping
from quillgate_codec.complete import CompleterSet
from quillgate_codec.decode import DecoderSet
from quillgate_codec.encode import EncoderSet
from quillgate_codec.json_error import JsonError

MessageT = TypeVar("MessageT", bound=Message)

MAX_DEPTH = 64
"""The deepest nesting of arrays and objects that is read, an object without nested ones being 1 deep."""

_SHORT_TEXT = 4096

_loads = msgspec.json.Decoder().decode
_dumps = msgspec.json.Encoder().encode


class Codec(Generic[MessageT]):
    """The mapping of one message type, compiled when it is made (about a millisecond: make it once, at import)."""

    def __init__(self, message_class: type[MessageT], *, lenient: bool = False, answers: bool = False) -> None:
        self._class = message_class
        self._lenient = lenient
        descriptor = mapping.descriptor_of(message_class)
        self._fill = DecoderSet(lenient=lenient).fill(descriptor)
        self._encode = EncoderSet(answers=answers).encode(descriptor)
        self._complete = CompleterSet().complete(descriptor) if answers else None
        self._empty = {field.name: mapping.empty_value(field) for field in descriptor.fields}
        self._empty.pop(mapping.EXTRA, None)

    def from_json(self, data: bytes) -> MessageT:
        """Reads UTF-8 JSON text; raises JsonError, also for depth over MAX_DEPTH and, if strict, for NUL characters."""
        value = load_json(data)
        check_value(data, value, refuse_nul=not self._lenient)
        return self.from_value(value)

    def from_value(self, value: Any) -> MessageT:
        """Reads what load_json returned, without the checks of depth and NUL; raises JsonError."""
        message = self._class()
        self._fill(message, value)
        return message

    def to_json(self, message: MessageT) -> bytes:
        """Writes UTF-8 JSON text; raises JsonError when raw bytes in the message are not JSON."""
        try:
            return _dumps(self._encode(message))
        except RecursionError:
            raise JsonError("its raw JSON is nested too deeply", code="invalid_value") from None

    def to_value(self, message: MessageT) -> Any:
        """Returns what a JSON encoder takes; raises JsonError when raw bytes in the message are not JSON."""
        return self._encode(message)

    def complete(self, value: Any) -> None:
        """Adds, in place, the members that an answer always has to one that is decoded JSON; only for answers."""
        if self._complete is not None:
            self._complete(value)

    def check_extra(self, message: MessageT) -> None:
        """Raises JsonError when `extra_json` holds a member that has a field, other than what the field cannot hold.

        That is null, and the empty array of a list and the empty object of a map.
        A gRPC caller could otherwise set `max_tokens` where no code looks for it.
        """
        extra: bytes = getattr(message, mapping.EXTRA)
        if not extra:
            return
        value = load_json(extra)
        if type(value) is not dict:
            raise JsonError("it must be a JSON object", code="invalid_value", path=mapping.EXTRA)
        for name, item in value.items():
            if name in self._empty and item is not None and item != self._empty[name]:
                raise JsonError(f"`{name}` has a field of its own", code="invalid_value", path=mapping.EXTRA)


def load_json(data: bytes) -> Any:
    """Decodes JSON text without loss (integers of any size); raises JsonError for what is not JSON in UTF-8."""
    try:
        return _loads(data)
    except RecursionError:
        raise JsonError("it is nested too deeply", code="invalid_json") from None
    except UnicodeDecodeError:
        raise JsonError("it is not valid UTF-8", code="invalid_json") from None
    except ValueError as error:
        raise JsonError(str(error).removeprefix("JSON is malformed: "), code="invalid_json") from None


def check_value(data: bytes, value: Any, *, refuse_nul: bool) -> None:
    """Raises JsonError when the decoded text nests deeper than MAX_DEPTH or, if asked, has a NUL in a string or a name.

    Brackets and escapes in short text are counted first, which settles nearly every chunk; in long text counting costs
    more than walking the value.
    """
    if len(data) < _SHORT_TEXT and data.count(b"{") + data.count(b"[") <= MAX_DEPTH and b"\\u0000" not in data:
        return
    level = [value]
    for _ in range(MAX_DEPTH):
        level = _next_level(level, refuse_nul=refuse_nul)
        if not level:
            return
    raise JsonError(f"it is nested more than {MAX_DEPTH} levels deep", code="invalid_json")


def _next_level(level: list[Any], *, refuse_nul: bool) -> list[Any]:
    """Returns the arrays and objects within those of a level; loops in C, for a body may hold 100,000 of them."""
    names: list[str] = []
    children: list[Any] = []
    for node in level:
        if type(node) is dict:
            names += node
            children += node.values()
        elif type(node) is list:
            children += node
    if refuse_nul:
        strings = [child for child in children if type(child) is str]
        if any(map(contains, names, repeat("\0"))) or any(map(contains, strings, repeat("\0"))):
            raise JsonError("strings must not contain NUL characters", code="invalid_json")
    return [child for child in children if type(child) is dict or type(child) is list]
