"""JSON schemas as Anthropic's constrained decoding takes them: the subset that it can compile. Pure.

It refuses bounds of numbers, of lengths and of counts, and objects that admit other members. As Anthropic's own client
libraries do, the bounds move into the description, where the model reads them, and every object is closed.
"""

from typing import Any, Final

_REFUSED: Final = frozenset(
    {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength", "pattern"}
    | {"maxItems", "uniqueItems", "minContains", "maxContains", "minProperties", "maxProperties", "propertyNames"}
    | {"patternProperties", "unevaluatedProperties", "$schema"}
)
_FORMATS: Final = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"}
)
_OF_SCHEMAS: Final = ("properties", "$defs", "definitions")
_LISTS: Final = ("anyOf", "allOf", "prefixItems")


def constrained(schema: Any) -> Any:
    """Returns the schema without what is refused; what it says of lengths and bounds is said in its description."""
    if type(schema) is not dict:
        return schema
    kinds = schema.get("type")
    if type(kinds) is list:
        return {"anyOf": [constrained(_of_kind(schema, kind)) for kind in kinds], **_told(schema, {})}
    made: dict[str, Any] = {}
    moved: dict[str, Any] = {}
    for name, item in schema.items():
        if name in _OF_SCHEMAS and type(item) is dict:
            made[name] = {key: constrained(value) for key, value in item.items()}
        elif name in _LISTS or (name == "oneOf" and type(item) is list):
            made["anyOf" if name == "oneOf" else name] = _each(item)
        elif name == "items":
            made[name] = constrained(item)
        elif _is_refused(name, item):
            moved[name] = item
        else:
            made[name] = item
    if kinds == "object" or "properties" in made:
        made["additionalProperties"] = False
    return {**made, **_told(schema, moved)}


def _each(item: Any) -> Any:
    return [constrained(value) for value in item] if type(item) is list else item


def _is_refused(name: str, item: Any) -> bool:
    if name == "minItems":
        return item not in (0, 1)
    if name == "format":
        return item not in _FORMATS
    return name in _REFUSED


def _of_kind(schema: dict[str, Any], kind: Any) -> dict[str, Any]:
    """The branch of a schema of several types that is about one of them."""
    if kind == "null":
        return {"type": "null"}
    rest = {name: item for name, item in schema.items() if name not in ("description", "default")}
    if type(schema.get("enum")) is list:
        rest["enum"] = [value for value in schema["enum"] if value is not None]
    return {**rest, "type": kind}


def _told(schema: dict[str, Any], moved: dict[str, Any]) -> dict[str, str]:
    """The description with what cannot be said otherwise; none where there is nothing to say."""
    said = [schema["description"]] if type(schema.get("description")) is str else []
    bounds = [f"{name}: {item}" for name, item in moved.items() if name != "$schema"]
    said += [f"({', '.join(bounds)})"] if bounds else []
    return {"description": " ".join(said)} if said else {}
