"""Compiles, once per message type, functions that fill a message from decoded JSON.

What a field cannot hold exactly goes into `extra_json`: unknown members, nulls, and the empty arrays and objects that a
list or a map cannot tell from absent. A member of the wrong kind raises JsonError in strict decoders (what clients
send) and goes into `extra_json` as it is in lenient ones (what providers send).
"""

from collections.abc import Callable
from typing import Any

import msgspec
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from quillgate.v1 import json_pb2
from quillgate_codec import mapping
from quillgate_codec.json_error import KINDS, JsonError, wrong_type

_dumps = msgspec.json.Encoder().encode

#: Fills the message (first argument) from the decoded JSON value (second) or raises JsonError.
Fill = Callable[[Any, Any], None]
#: Sets one member of the parent message (first argument) from a value other than null (second). Returns False when the
#: value is right but the field cannot hold it exactly; raises JsonError when it is wrong.
SetMember = Callable[[Any, Any], bool]

_EXACT_TYPES: dict[str, type] = {"string": str, "boolean": bool, "integer": int}


class DecoderSet:
    """The compiled fill functions of one mode; types that contain themselves are why they are kept in a table."""

    def __init__(self, *, lenient: bool) -> None:
        self._lenient = lenient
        self._fills: dict[str, Fill] = {}

    def fill(self, descriptor: Descriptor) -> Fill:
        """Returns the fill function of a message type, compiling it on first use."""
        known = self._fills.get(descriptor.full_name)
        if known is not None:
            return known

        def forward(message: Any, value: Any) -> None:
            self._fills[descriptor.full_name](message, value)

        self._fills[descriptor.full_name] = forward
        compiled = self._compile(descriptor)
        self._fills[descriptor.full_name] = compiled
        return compiled

    def _compile(self, descriptor: Descriptor) -> Fill:
        shape = mapping.shape_of(descriptor)
        if shape == json_pb2.JSON_SHAPE_UNION:
            return self._union(descriptor)
        if shape == json_pb2.JSON_SHAPE_ARRAY:
            return self._array(descriptor)
        return self._object(descriptor)

    def _object(self, descriptor: Descriptor) -> Fill:
        fields = [field for field in descriptor.fields if field.name != mapping.EXTRA]
        exact = {
            field.name: _EXACT_TYPES[mapping.scalar_kind(field)]
            for field in fields
            if not (mapping.is_repeated(field) or field.message_type or mapping.is_raw(field))
            and mapping.scalar_kind(field) in _EXACT_TYPES
        }
        setters = {field.name: self._member(field) for field in fields}
        lenient = self._lenient or mapping.is_open(descriptor)

        def fill(message: Any, value: Any) -> None:
            if type(value) is not dict:
                raise wrong_type(("object",), value)
            extra = None
            for name, item in value.items():
                try:
                    if exact.get(name) is type(item):
                        setattr(message, name, item)
                        continue
                    setter = setters.get(name)
                    if setter is not None and item is not None and setter(message, item):
                        continue
                except JsonError as error:
                    if not lenient:
                        raise error.within(name) from None
                    message.ClearField(name)
                except ValueError:
                    if not lenient:
                        raise JsonError("the integer is out of range", code="invalid_value", path=name) from None
                if extra is None:
                    extra = {}
                extra[name] = item
            if extra is not None:
                message.extra_json = _dumps(extra)

        return fill

    def _member(self, field: FieldDescriptor) -> SetMember:
        if field.message_type is not None and mapping.is_map(field):
            return self._map_member(field.name, mapping.map_value(field.message_type))
        if mapping.is_repeated(field):
            return self._list_member(field)
        if field.message_type is not None:
            return self._message_member(field.name, self.fill(field.message_type))
        if mapping.is_raw(field):
            return _raw_member(field)
        return self._scalar_member(field)

    def _scalar_member(self, field: FieldDescriptor) -> SetMember:
        name, convert = field.name, _converter(field, lenient=self._lenient)

        def set_scalar(message: Any, item: Any) -> bool:
            setattr(message, name, convert(item))
            return True

        return set_scalar

    @staticmethod
    def _message_member(name: str, fill: Fill) -> SetMember:
        def set_message(message: Any, item: Any) -> bool:
            child = getattr(message, name)
            child.SetInParent()  # an empty value is held exactly: a set message without fields
            fill(child, item)
            return True

        return set_message

    def _list_member(self, field: FieldDescriptor) -> SetMember:
        name, append = field.name, self._append(field)

        def set_list(message: Any, item: Any) -> bool:
            if type(item) is not list:
                raise wrong_type(("array",), item)
            append(getattr(message, name), item)
            return bool(item)

        return set_list

    def _append(self, field: FieldDescriptor) -> Callable[[Any, list[Any]], None]:
        if field.message_type is None:
            convert = _converter(field, lenient=self._lenient)

            def append_scalars(target: Any, items: list[Any]) -> None:
                for index, item in enumerate(items):
                    try:
                        target.append(convert(item))
                    except JsonError as error:
                        raise error.within(index) from None
                    except ValueError:
                        raise JsonError("the integer is out of range", code="invalid_value").within(index) from None

            return append_scalars
        fill = self.fill(field.message_type)

        def append_messages(target: Any, items: list[Any]) -> None:
            for index, item in enumerate(items):
                try:
                    fill(target.add(), item)
                except JsonError as error:
                    raise error.within(index) from None

        return append_messages

    def _map_member(self, name: str, value_field: FieldDescriptor) -> SetMember:
        convert = _converter(value_field, lenient=self._lenient)

        def set_map(message: Any, item: Any) -> bool:
            if type(item) is not dict:
                raise wrong_type(("object",), item)
            target = getattr(message, name)
            for key, value in item.items():
                try:
                    target[key] = convert(value)
                except JsonError as error:
                    raise error.within(key) from None
            return bool(item)

        return set_map

    def _union(self, descriptor: Descriptor) -> Fill:
        cases = {mapping.json_kind(field): self._member(field) for field in descriptor.fields}
        expected = tuple(cases)
        if "number" in cases:
            cases["integer"] = cases["number"]
        of_type = {kind_type: cases[kind] for kind_type, kind in KINDS.items() if kind in cases}

        def fill(message: Any, value: Any) -> None:
            case = of_type.get(type(value))
            if case is None:
                raise wrong_type(expected, value)
            case(message, value)

        return fill

    def _array(self, descriptor: Descriptor) -> Fill:
        field = mapping.array_field(descriptor)
        name, append = field.name, self._append(field)

        def fill(message: Any, value: Any) -> None:
            if type(value) is not list:
                raise wrong_type(("array",), value)
            append(getattr(message, name), value)

        return fill


def _raw_member(field: FieldDescriptor) -> SetMember:
    name = field.name

    def set_raw(message: Any, item: Any) -> bool:
        setattr(message, name, _dumps(item))
        return True

    return set_raw


def _converter(field: FieldDescriptor, *, lenient: bool) -> Callable[[Any], Any]:
    kind = mapping.scalar_kind(field)
    if kind == "number":
        return _number
    if kind == "integer" and lenient:
        return _lenient_integer
    exact = _EXACT_TYPES[kind]

    def convert(item: Any) -> Any:
        if type(item) is not exact:
            raise wrong_type((kind,), item)
        return item

    return convert


def _number(item: Any) -> float:
    if type(item) is float:
        return item
    if type(item) is int and abs(item) <= 2**53:
        return float(item)
    if type(item) is int:
        raise JsonError("the integer is out of range", code="invalid_value")
    raise wrong_type(("number",), item)


def _lenient_integer(item: Any) -> int:
    """Some providers send whole numbers as 1.7e9 or 1700000000.0."""
    if type(item) is int:
        return item
    if type(item) is float and item.is_integer():
        return int(item)
    raise wrong_type(("integer",), item)
