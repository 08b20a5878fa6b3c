"""Compiles, once per message type, functions that give an answer's JSON the members that clients insist on.

They do to JSON values what encoders of answers do to messages, for answers that never become messages.
"""

from collections.abc import Callable
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from quillgate.v1 import json_pb2
from quillgate_codec import mapping

#: Adds what is absent to a decoded JSON value, in place; leaves alone what is not of the expected kind.
Complete = Callable[[Any], None]


class CompleterSet:
    """The compiled functions; types that contain themselves are why they are kept in a table."""

    def __init__(self) -> None:
        self._completers: dict[str, Complete | None] = {}

    def complete(self, descriptor: Descriptor) -> Complete | None:
        """Returns the function of a message type, None where nothing is ever added."""
        name = descriptor.full_name
        if name not in self._completers:
            self._completers[name] = None  # no answer has a member that contains itself
            self._completers[name] = self._compile(descriptor)
        return self._completers[name]

    def _compile(self, descriptor: Descriptor) -> Complete | None:
        if mapping.shape_of(descriptor) != json_pb2.JSON_SHAPE_OBJECT:
            return None
        always = tuple(
            (field.name, mapping.unset_value(field)) for field in descriptor.fields if mapping.always_in_answers(field)
        )
        nested = tuple(
            (field.name, mapping.is_repeated(field), inner)
            for field in descriptor.fields
            if (inner := self._inner(field)) is not None
        )
        if not always and not nested:
            return None

        def complete(value: Any) -> None:
            if type(value) is not dict:
                return
            for name, unset in always:
                if name not in value:
                    value[name] = unset()
            for name, is_list, inner in nested:
                item = value.get(name)
                if is_list and type(item) is list:
                    for each in item:
                        inner(each)
                elif item is not None:
                    inner(item)

        return complete

    def _inner(self, field: FieldDescriptor) -> Complete | None:
        if field.message_type is None or mapping.is_map(field):
            return None
        return self.complete(field.message_type)
