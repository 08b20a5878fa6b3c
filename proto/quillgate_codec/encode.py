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
        self._encoders[descriptor.full_name] = lambda message: self._encoders[descriptor.full_name](message)
        compiled = self._compile(descriptor)
        self._encoders[descriptor.full_name] = compiled
        return compiled

    def _compile(self, descriptor: Descriptor) -> Encode:
        shape = mapping.shape_of(descriptor)
        if shape == json_pb2.JSON_SHAPE_UNION:
            return self._union(descriptor)
        if shape == json_pb2.JSON_SHAPE_ARRAY:
            field = mapping.array_field(descriptor)
            name, encode_list = field.name, self._member(field)
            return lambda message: encode_list(getattr(message, name))
        return self._object(descriptor)

    def _object(self, descriptor: Descriptor) -> Encode:
        members: dict[FieldDescriptor, tuple[str, Encode | None]] = {
            field: (field.name, self._member(field)) for field in descriptor.fields if field.name != mapping.EXTRA
        }
        nulls = [field.name for field in members if self._answers and mapping.null_in_answers(field)]

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
            for name in nulls:
                if name not in value:
                    value[name] = None
            return value

        return encode

    def _member(self, field: FieldDescriptor) -> Encode | None:
        """Returns the field's function, or None for scalars that are JSON-ready as they are."""
        if mapping.is_map(field):
            convert = _scalar(field.message_type.fields_by_name["value"])
            return dict if convert is None else lambda items: {key: convert(value) for key, value in items.items()}
        if field.message_type is not None:
            encode = self.encode(field.message_type)
            return (lambda items: [encode(item) for item in items]) if mapping.is_repeated(field) else encode
        if mapping.is_repeated(field):
            convert = _scalar(field)
            return list if convert is None else lambda items: [convert(item) for item in items]
        return _raw_value if mapping.is_raw(field) else _scalar(field)

    def _union(self, descriptor: Descriptor) -> Encode:
        members = {field: self._member(field) for field in descriptor.fields}

        def encode(message: Any) -> Any:
            for field, item in message.ListFields():
                convert = members[field]
                return item if convert is None else convert(item)
            raise JsonError(f"no case of {descriptor.name} is set", code="invalid_value")

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
