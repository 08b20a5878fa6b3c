"""Makes JSON values of every shape that a message's descriptor allows, so that new fields are tested without a change.

Independent of the codec: it reads the rules of `json.proto` itself, and must not import from `quillgate_codec`.
"""

from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from hypothesis import strategies as st

from quillgate.v1 import json_pb2

EXTRA = "extra_json"
MAX_NESTING = 6
"""Messages within messages are generated this deep; TokenLogprob, for instance, contains itself."""

#: Names that must be harmless as unknown members: of protobuf's API, of Python, and of the contract's own bookkeeping.
AWKWARD_NAMES = [
    *("extra_json", "DESCRIPTOR", "SerializeToString", "HasField", "ClearField", "Extensions", "MergeFrom"),
    *("__class__", "__dict__", "__init__", "_fields", "value", "parts", "items", "top_k", "", ".", "a.b[0]"),
]


def is_list(field: FieldDescriptor) -> bool:
    """Tells whether the field is a list or a map."""
    return bool(field.is_repeated)


def is_map(field: FieldDescriptor) -> bool:
    """Tells whether the field is a map."""
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)


def is_raw(field: FieldDescriptor) -> bool:
    """Tells whether the field holds any JSON value as text."""
    return bool(field.GetOptions().Extensions[json_pb2.json_field].raw)


def shape(descriptor: Descriptor) -> int:
    """Returns the kind of JSON value that the message stands for."""
    return int(descriptor.GetOptions().Extensions[json_pb2.json_message].shape) or json_pb2.JSON_SHAPE_OBJECT


def is_open(descriptor: Descriptor) -> bool:
    """Tells whether members of the wrong kind are kept rather than refused."""
    return bool(descriptor.GetOptions().Extensions[json_pb2.json_message].open)


def is_union(descriptor: Descriptor) -> bool:
    """Tells whether the message is one of several kinds of JSON value."""
    return shape(descriptor) == json_pb2.JSON_SHAPE_UNION


def is_array(descriptor: Descriptor) -> bool:
    """Tells whether the message is a JSON array."""
    return shape(descriptor) == json_pb2.JSON_SHAPE_ARRAY


def members(descriptor: Descriptor) -> dict[str, FieldDescriptor]:
    """Returns the fields that are members of the JSON object."""
    return {field.name: field for field in descriptor.fields if field.name != EXTRA}


text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
"""Any text that a strict codec takes: no lone surrogates and no NUL."""

int64 = st.integers(-(2**63), 2**63 - 1)
any_number = st.floats(allow_nan=False, allow_infinity=False)
any_scalar = st.none() | st.booleans() | int64 | st.integers(-(10**30), 10**30) | any_number | text
any_json = st.recursive(
    any_scalar, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3), max_leaves=8
)
"""Any JSON value, big integers, 1.0 and -0.0 among them."""


class JsonValues:
    """Values for a message type: every member fits, or (`wild`) may be of any kind, as providers send them."""

    def __init__(self, *, wild: bool) -> None:
        self._wild = wild

    def message(self, descriptor: Descriptor, nesting: int = 0) -> st.SearchStrategy[Any]:
        """Returns values of the kind that the message stands for."""
        if is_union(descriptor):
            return st.one_of([self._single(field, nesting) for field in descriptor.fields])
        if is_array(descriptor):
            return self._list(descriptor.fields[0], nesting)
        return self._object(descriptor, nesting)

    @st.composite
    @staticmethod
    def _draw_object(draw: st.DrawFn, self: "JsonValues", descriptor: Descriptor, nesting: int) -> dict[str, Any]:
        known = members(descriptor)
        value: dict[str, Any] = {}
        for name in draw(st.lists(st.sampled_from(sorted(known)), unique=True, max_size=4)):
            value[name] = draw(self._member(known[name], nesting))
        unknown = (st.sampled_from(AWKWARD_NAMES) | text).filter(lambda name: name not in known)
        value.update(draw(st.dictionaries(unknown, any_json, max_size=2)))
        order = draw(st.permutations(list(value)))
        return {name: value[name] for name in order}

    def _object(self, descriptor: Descriptor, nesting: int) -> st.SearchStrategy[Any]:
        if nesting > MAX_NESTING:
            return st.just({})
        return JsonValues._draw_object(self, descriptor, nesting)

    def _member(self, field: FieldDescriptor, nesting: int) -> st.SearchStrategy[Any]:
        fitting = st.none() | self._present(field, nesting)
        return fitting | any_json if self._wild or is_open(field.containing_type) else fitting

    def _present(self, field: FieldDescriptor, nesting: int) -> st.SearchStrategy[Any]:
        if field.message_type is not None and is_map(field):
            return st.dictionaries(text, _scalar(field.message_type.fields_by_name["value"]), max_size=3)
        return self._list(field, nesting) if is_list(field) else self._single(field, nesting)

    def _list(self, field: FieldDescriptor, nesting: int) -> st.SearchStrategy[Any]:
        return st.lists(self._single(field, nesting), max_size=3)

    def _single(self, field: FieldDescriptor, nesting: int) -> st.SearchStrategy[Any]:
        if is_raw(field):
            return any_json
        if field.message_type is None:
            return _scalar(field)
        descriptor = field.message_type
        return st.deferred(lambda: self.message(descriptor, nesting + 1))


def _scalar(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    by_type: dict[int, st.SearchStrategy[Any]] = {
        FieldDescriptor.TYPE_STRING: text,
        FieldDescriptor.TYPE_BOOL: st.booleans(),
        FieldDescriptor.TYPE_INT64: int64,
        FieldDescriptor.TYPE_DOUBLE: any_number | st.integers(-(2**53), 2**53),
    }
    return by_type[field.type]
