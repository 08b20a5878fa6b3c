"""Finds every place in a message where a JSON value has a fixed kind, with a way to put a value there.

Independent of the codec: it must not import from `quillgate_codec`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from proto.json_strategies import is_array, is_list, is_map, is_raw, is_union, members

KINDS = {
    FieldDescriptor.TYPE_STRING: "string",
    FieldDescriptor.TYPE_BOOL: "boolean",
    FieldDescriptor.TYPE_INT64: "integer",
    FieldDescriptor.TYPE_DOUBLE: "number",
}


@dataclass(frozen=True)
class Place:
    """A place in a JSON document; `document(value)` is the document with the value there and nothing else."""

    path: str
    kinds: tuple[str, ...]
    nullable: bool
    document: Callable[[Any], Any]


def places(root: Descriptor) -> Iterator[Place]:
    """Yields every place below a message that stands for an object, each message type once."""
    yield Place("", ("object",), False, lambda value: value)
    yield from _within(root, "", lambda value: value, set())


def _within(descriptor: Descriptor, path: str, document: Callable[[Any], Any], seen: set[str]) -> Iterator[Place]:
    """Yields the places below the message at `path`."""
    if descriptor.full_name in seen:
        return
    seen.add(descriptor.full_name)
    if is_union(descriptor):
        for case in descriptor.fields:
            if case.message_type is not None:
                yield from _within(case.message_type, path, document, seen)
    elif is_array(descriptor):
        yield from _items(descriptor.fields[0], path, document, seen)
    else:
        for name, field in members(descriptor).items():
            at = f"{path}.{name}" if path else name
            yield from _member(field, at, _then(document, _in_object(name)), seen)


def _member(field: FieldDescriptor, path: str, document: Callable[[Any], Any], seen: set[str]) -> Iterator[Place]:
    if is_raw(field):
        return
    if field.message_type is not None and is_map(field):
        yield Place(path, ("object",), True, document)
        kinds = _kinds(field.message_type.fields_by_name["value"])
        yield Place(f"{path}.key", kinds, False, _then(document, _in_object("key")))
    elif is_list(field):
        yield Place(path, ("array",), True, document)
        yield from _items(field, path, document, seen)
    else:
        yield Place(path, _kinds(field), True, document)
        if field.message_type is not None:
            yield from _within(field.message_type, path, document, seen)


def _items(field: FieldDescriptor, path: str, document: Callable[[Any], Any], seen: set[str]) -> Iterator[Place]:
    inner = _then(document, _in_array)
    yield Place(f"{path}[0]", _kinds(field), False, inner)
    if field.message_type is not None:
        yield from _within(field.message_type, f"{path}[0]", inner, seen)


def _kinds(field: FieldDescriptor) -> tuple[str, ...]:
    descriptor = field.message_type
    if descriptor is None:
        return (KINDS[field.type],)
    if is_union(descriptor):
        return tuple(kind for case in descriptor.fields for kind in _kinds(case))
    return ("array",) if is_array(descriptor) else ("object",)


def _then(outer: Callable[[Any], Any], inner: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: outer(inner(value))


def _in_object(name: str) -> Callable[[Any], Any]:
    return lambda value: {name: value}


def _in_array(value: Any) -> Any:
    return [value]
