"""Members of a request that have no field of their own, as a vendor's translation reads them. Pure."""

from typing import Any

from quillgate_codec import JsonError, load_json
from quillgate_core.errors import InvalidRequest


def extra_members(extra_json: bytes, param: str) -> dict[str, Any]:
    """Returns the members; raises InvalidRequest for what a gRPC caller put there that is no JSON object."""
    return raw_object(extra_json, f"{param}.extra_json" if param else "extra_json") if extra_json else {}


def raw_object(raw: bytes, param: str) -> dict[str, Any]:
    """Returns the object that raw JSON bytes hold; raises InvalidRequest for what is none."""
    value = raw_value(raw, param)
    if type(value) is not dict:
        message = f"Invalid type for '{param}': expected an object."
        raise InvalidRequest(message, param=param, code="invalid_type")
    return value


def raw_value(raw: bytes, param: str) -> Any:
    """Returns what raw JSON bytes hold; raises InvalidRequest for what is no JSON."""
    try:
        return load_json(raw)
    except JsonError:
        message = f"Invalid value for '{param}': it must be JSON."
        raise InvalidRequest(message, param=param, code="invalid_value") from None
