"""Compiles, once per message type, functions that turn a message into values ready for a JSON encoder."""

from collections.abc import Callable
from math import isfinite
from typing import Any

import msgspec
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from quillgate.v1 import json_pb2
from quillgate_codec import mapping
from quillgate_codec.json_error import JsonError

_loads = msgspec.json.Decoder().decode

#: Turns a field's value into a JSON-ready value.
Encode = Callable[[Any], Any]


class EncoderSet:
    """The compiled functions of one mode: lossless, or `answers`, which adds the nulls that clients insist on."""

    def __init__(self, *, answers: bool) -> None:
        self._answers = answers
        self._encoders: dict[str, Encode] = {}

    def encode(self, descriptor: Descriptor) -> Encode:
        """Returns the function of a message type, compiling it on first use."""
        known = self._encoders.get(descriptor.full_name)
        if known is not None:
            return known

        def forward(message: Any) -> Any:
            return self._encoders[descriptor.full_name](message)

        self._encoders[descriptor.full_name] = forward
        compiled = self._compile(descriptor)
        self._encoders[descriptor.full_name] = compiled
        return compiled

    def _compile(self, descriptor: Descriptor) -> Encode:
        shape = mapping.shape_of(descriptor)
        if shape == json_pb2.JSON_SHAPE_UNION:
            return self._union(descriptor)
        if shape == json_pb2.JSON_SHAPE_ARRAY:
            field = mapping.array_field(descriptor)
            name, encode_list = field.name, self._member(field) or list
            return lambda message: encode_list(getattr(message, name))
        return self._object(descriptor)

    def _object(self, descriptor: Descriptor) -> Encode:
        members: dict[FieldDescriptor, tuple[str, Encode | None]] = {
            field: (field.name, self._member(field)) for field in descriptor.fields if field.name != mapping.EXTRA
        }
        always = [
            (field.name, mapping.unset_value(field))
            for field in members
            if self._answers and mapping.always_in_answers(field)
        ]

        def encode(message: Any) -> dict[str, Any]:
            value: dict[str, Any] = {}
            extra = None
            for field, item in message.ListFields():
                known = members.get(field)
                if known is None:
                    extra = item
                    continue
                name, convert = known
                try:
                    value[name] = item if convert is None else convert(item)
                except JsonError as error:
                    raise error.within(name) from None
            if extra is not None:
                for name, item in _extra_members(extra).items():
                    value.setdefault(name, item)
            for name, unset in always:
                if name not in value:
                    value[name] = unset()
            return value

        return encode

    def _member(self, field: FieldDescriptor) -> Encode | None:
        """Returns the field's function, or None for scalars that are JSON-ready as they are."""
        entry = field.message_type
        if entry is not None and mapping.is_map(field):
            return _map(_scalar(mapping.map_value(entry)))
        single = self.encode(entry) if entry is not None else _raw_value if mapping.is_raw(field) else _scalar(field)
        return _list(single) if mapping.is_repeated(field) else single

    def _union(self, descriptor: Descriptor) -> Encode:
        members = {field: self._member(field) for field in descriptor.fields}

        def encode(message: Any) -> Any:
            for field, item in message.ListFields():
                convert = members[field]
                return item if convert is None else convert(item)
            raise JsonError(f"no case of {descriptor.name} is set", code="invalid_value")

        return encode


def _list(single: Encode | None) -> Encode:
    if single is None:
        return list

    def encode(items: Any) -> list[Any]:
        value: list[Any] = []
        for item in items:
            try:
                value.append(single(item))
            except JsonError as error:
                raise error.within(len(value)) from None
        return value

    return encode


def _map(single: Encode | None) -> Encode:
    if single is None:
        return dict

    def encode(items: Any) -> dict[str, Any]:
        value: dict[str, Any] = {}
        for key, item in items.items():
            try:
                value[key] = single(item)
            except JsonError as error:
                raise error.within(key) from None
        return value

    return encode


def _scalar(field: FieldDescriptor) -> Encode | None:
    return _number if mapping.scalar_kind(field) == "number" else None


def _number(value: float) -> float | int:
    """Whole numbers lose the `.0` that a client never wrote; JSON knows no difference."""
    if value.is_integer():
        return int(value) if abs(value) < 2**53 else value
    if isfinite(value):
        return value
    raise JsonError("it must be a finite number", code="invalid_value")


def _raw_value(data: bytes) -> Any:
    try:
        return _loads(data)
    except (ValueError, RecursionError):
        raise JsonError("it must be JSON text", code="invalid_value") from None


def _extra_members(data: bytes) -> dict[str, Any]:
    try:
        value = _raw_value(data)
    except JsonError as error:
        raise error.within(mapping.EXTRA) from None
    if type(value) is not dict:
        raise JsonError("it must be a JSON object", code="invalid_value", path=mapping.EXTRA)
    return value
