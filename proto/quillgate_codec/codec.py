"""The lossless mapping between OpenAI's JSON and the messages of `quillgate.v1`. Pure: no I/O, no state.

    body = chat_request.from_json(b'{"model": "m", "messages": [], "top_k": 5}')   # top_k is kept in extra_json
    chat_request.to_json(body)

Codecs differ in how they read (strict: a member of the wrong kind is an error, for what clients send; lenient: it is
kept as it is, for what providers send) and how they write (lossless, or as an answer: with the null members that
client libraries insist on).
"""

from typing import Any, Generic, TypeVar

import msgspec
from google.protobuf.message import Message

from quillgate_codec import mapping
from quillgate_codec.decode import DecoderSet
from quillgate_codec.encode import EncoderSet
from quillgate_codec.json_error import JsonError

MessageT = TypeVar("MessageT", bound=Message)

MAX_DEPTH = 64
"""The deepest nesting of arrays and objects that a strict codec accepts."""

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
        self._members = frozenset(field.name for field in descriptor.fields) - {mapping.EXTRA}

    def from_json(self, data: bytes) -> MessageT:
        """Reads UTF-8 JSON text; raises JsonError, in strict codecs also for NUL characters and depth over MAX_DEPTH."""
        value = load_json(data)
        if not self._lenient:
            check_value(data, value)
        return self.from_value(value)

    def from_value(self, value: Any) -> MessageT:
        """Reads what a JSON decoder returned; raises JsonError."""
        message = self._class()
        self._fill(message, value)
        return message

    def to_json(self, message: MessageT) -> bytes:
        """Writes UTF-8 JSON text; raises JsonError when raw bytes in the message are not JSON."""
        return _dumps(self._encode(message))

    def to_value(self, message: MessageT) -> Any:
        """Returns what a JSON encoder takes; raises JsonError when raw bytes in the message are not JSON."""
        return self._encode(message)

    def check_extra(self, message: MessageT) -> None:
        """Raises JsonError when `extra_json` holds a member that has a field, other than as null, [] or {}.

        A gRPC caller could otherwise set `max_tokens` where no code looks for it.
        """
        extra: bytes = getattr(message, mapping.EXTRA)
        if not extra:
            return
        value = load_json(extra)
        if type(value) is not dict:
            raise JsonError("it must be a JSON object", code="invalid_value", path=mapping.EXTRA)
        for name, item in value.items():
            if name in self._members and item is not None and item != [] and item != {}:
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


def check_value(data: bytes, value: Any) -> None:
    """Raises JsonError when the decoded text nests deeper than MAX_DEPTH or has a NUL character in a string."""
    deep = data.count(b"{") + data.count(b"[") > MAX_DEPTH
    nul = b"\\u0000" in data
    if not deep and not nul:
        return
    level = [value]
    for _ in range(MAX_DEPTH):
        if nul and any(_has_nul(node) for node in level):
            raise JsonError("strings must not contain NUL characters", code="invalid_json")
        level = [child for node in level for child in _children(node) if type(child) in (dict, list)]
        if not level:
            return
    raise JsonError(f"it is nested more than {MAX_DEPTH} levels deep", code="invalid_json")


def _children(node: Any) -> Any:
    if type(node) is dict:
        return node.values()
    return node if type(node) is list else ()


def _has_nul(node: Any) -> bool:
    if type(node) is dict and any("\0" in key for key in node):
        return True
    return any(type(child) is str and "\0" in child for child in _children(node))
