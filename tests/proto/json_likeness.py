"""Compares JSON values as strictly as the contract promises: types too, except that a number field takes 1 for 1.0.

Independent of the codec: it must not import from `quillgate_codec`.
"""

import json
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from proto.json_strategies import is_array, is_list, is_map, is_union, members

from quillgate.v1 import json_pb2


class JsonLikeness:
    """Brings values into one canonical form; lenient codecs also take 1.0 for 1 in integer fields."""

    def __init__(self, *, lenient: bool) -> None:
        self._lenient = lenient

    def text(self, descriptor: Descriptor, value: Any) -> str:
        """Returns text that two values share only if the contract calls them the same; 1, 1.0 and true differ."""
        return json.dumps(self._message(descriptor, value), sort_keys=True, ensure_ascii=False)

    def _message(self, descriptor: Descriptor, value: Any) -> Any:
        if is_union(descriptor):
            for field in descriptor.fields:
                value = self._single(field, value)
            return value
        if is_array(descriptor):
            return self._list(descriptor.fields[0], value)
        if type(value) is not dict:
            return value
        known = members(descriptor)
        return {name: self._member(known[name], item) if name in known else item for name, item in value.items()}

    def _member(self, field: FieldDescriptor, value: Any) -> Any:
        if field.message_type is not None and is_map(field):
            item_field = field.message_type.fields_by_name["value"]
            return (
                {key: self._single(item_field, item) for key, item in value.items()} if type(value) is dict else value
            )
        return self._list(field, value) if is_list(field) else self._single(field, value)

    def _list(self, field: FieldDescriptor, value: Any) -> Any:
        return [self._single(field, item) for item in value] if type(value) is list else value

    def _single(self, field: FieldDescriptor, value: Any) -> Any:
        if field.message_type is not None:
            return self._message(field.message_type, value)
        if field.type == FieldDescriptor.TYPE_DOUBLE and type(value) in (int, float) and abs(value) <= 2**53:
            return float(value) + 0.0  # -0.0 becomes 0.0
        if self._lenient and field.type == FieldDescriptor.TYPE_INT64 and type(value) is float and value.is_integer():
            return int(value)
        return value


def with_answer_nulls(descriptor: Descriptor, value: Any) -> Any:
    """Returns the value with the members that `always_in_answers` promises, for a value that fits the descriptor."""
    if type(value) is list and is_union(descriptor):
        parts = next(field for field in descriptor.fields if field.message_type and is_array(field.message_type))
        return with_answer_nulls(_message_type(parts), value)
    if type(value) is list and is_array(descriptor):
        return _items_with_nulls(descriptor.fields[0], value)
    if type(value) is not dict or is_union(descriptor):
        return value
    full = dict(value)
    for name, field in members(descriptor).items():
        if field.GetOptions().Extensions[json_pb2.json_field].always_in_answers:
            full.setdefault(name, {} if is_map(field) else [] if is_list(field) else None)
        if name in value and field.message_type is not None and not is_map(field):
            full[name] = _items_with_nulls(field, value[name]) if is_list(field) else _nested(field, value[name])
    return full


def _nested(field: FieldDescriptor, value: Any) -> Any:
    return with_answer_nulls(_message_type(field), value) if field.message_type is not None else value


def _items_with_nulls(field: FieldDescriptor, value: Any) -> Any:
    return [_nested(field, item) for item in value] if type(value) is list else value


def _message_type(field: FieldDescriptor) -> Descriptor:
    assert field.message_type is not None
    return field.message_type
