"""Reads from the descriptors how each message and field maps to JSON; the rules are documented in `json.proto`."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from quillgate.v1 import json_pb2

if TYPE_CHECKING:
    from google.protobuf.message import Message

EXTRA = "extra_json"

_SCALAR_KINDS = {
    FieldDescriptor.TYPE_STRING: "string",
    FieldDescriptor.TYPE_BOOL: "boolean",
    FieldDescriptor.TYPE_INT64: "integer",
    FieldDescriptor.TYPE_INT32: "integer",
    FieldDescriptor.TYPE_DOUBLE: "number",
}


def shape_of(descriptor: Descriptor) -> "json_pb2.JsonShape.ValueType":
    """Returns the message's shape; unspecified is an object."""
    shape = descriptor.GetOptions().Extensions[json_pb2.json_message].shape
    return shape or json_pb2.JSON_SHAPE_OBJECT


def is_open(descriptor: Descriptor) -> bool:
    """Tells whether members that their fields cannot hold are kept rather than refused."""
    return bool(descriptor.GetOptions().Extensions[json_pb2.json_message].open)


def is_raw(field: FieldDescriptor) -> bool:
    """Tells whether the bytes field holds any JSON value as text."""
    return bool(field.GetOptions().Extensions[json_pb2.json_field].raw)


def always_in_answers(field: FieldDescriptor) -> bool:
    """Tells whether an answer has the member also when the field is unset."""
    return bool(field.GetOptions().Extensions[json_pb2.json_field].always_in_answers)


def unset_value(field: FieldDescriptor) -> Callable[[], Any]:
    """Returns what makes the value of an unset field in an answer: null, or an empty list or map."""
    if is_map(field):
        return dict
    return list if is_repeated(field) else lambda: None


def is_repeated(field: FieldDescriptor) -> bool:
    """Tells whether the field is a list or a map; protobuf 7 renamed the question that protobuf 4 answers."""
    modern = getattr(field, "is_repeated", None)
    return bool(modern) if modern is not None else getattr(field, "label", None) == FieldDescriptor.LABEL_REPEATED


def is_map(field: FieldDescriptor) -> bool:
    """Tells whether the field is a map."""
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)


def empty_value(field: FieldDescriptor) -> "list[None] | dict[str, None] | None":
    """Returns the JSON value that the field cannot tell from absent: [] for a list, {} for a map, otherwise None."""
    if is_map(field):
        return {}
    return [] if is_repeated(field) else None


def scalar_kind(field: FieldDescriptor) -> str:
    """Returns the JSON kind of a scalar field; raises TypeError for a type that the contract must not use."""
    try:
        return _SCALAR_KINDS[field.type]
    except KeyError:
        raise TypeError(f"{field.full_name}: no JSON mapping for this protobuf type") from None


def json_kind(field: FieldDescriptor) -> str:
    """Returns the JSON kind that selects this case of a union."""
    if field.message_type is None:
        return scalar_kind(field)
    return "array" if shape_of(field.message_type) == json_pb2.JSON_SHAPE_ARRAY else "object"


def map_value(entry: Descriptor) -> FieldDescriptor:
    """Returns the field of a map's values, given the map field's message type."""
    return entry.fields_by_name["value"]


def array_field(descriptor: Descriptor) -> FieldDescriptor:
    """Returns the one repeated field of a message that stands for a JSON array."""
    (field,) = descriptor.fields
    return field


def descriptor_of(message_class: "type[Message]") -> Descriptor:
    """Returns the class's descriptor, under the one type that its C and Python forms share."""
    return cast("Descriptor", message_class.DESCRIPTOR)
