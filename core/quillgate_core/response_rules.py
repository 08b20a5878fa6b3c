"""What a response request must satisfy before anything is reserved: clear refusals, in OpenAI's words. Pure."""

from quillgate.v1.response_pb2 import ResponseItem, ResponseRequest
from quillgate_codec import JsonError, response_request
from quillgate_core.catalogue import Model
from quillgate_core.errors import InvalidRequest
from quillgate_core.response_input import kind_of

_ROLES = frozenset({"user", "assistant", "system", "developer"})
_RANGES: dict[str, tuple[float, float]] = {
    "max_output_tokens": (1, 100_000_000),
    "max_tool_calls": (1, 100_000_000),
    "temperature": (0, 2),
    "top_p": (0, 1),
    "top_logprobs": (0, 20),
}
_FORMATS = frozenset({"text", "json_object", "json_schema"})
_UNSERVED = ("conversation", "prompt")
_MAX_LABELS = 16


def check_response(request: ResponseRequest) -> None:
    """Raises InvalidRequest, naming the member, for a request that can never work."""
    if not request.model:
        raise _missing("model")
    if request.background:
        raise _invalid("background", "responses in the background are not served here", code="unsupported_value")
    _check_extra(request)
    _check_input(request)
    _check_ranges(request)
    _check_format(request)
    if len(request.metadata) > _MAX_LABELS:
        raise _invalid("metadata", f"expected at most {_MAX_LABELS} labels, but got {len(request.metadata)} instead")
    for index, tool in enumerate(request.tools):
        if not tool.type:
            raise _missing(f"tools[{index}].type")
        if tool.type in ("function", "custom") and not tool.name:
            raise _missing(f"tools[{index}].name")


def check_endpoint(model: Model) -> None:
    """Raises InvalidRequest for a model that is not asked in words, such as one that hears."""
    if "responses" not in model.endpoints:
        message = f"The model `{model.id}` does not support the endpoint `/responses`."
        raise InvalidRequest(message, param="model", code="unsupported_value")


def _check_extra(request: ResponseRequest) -> None:
    try:
        response_request.check_extra(request)
        members = response_request.to_value(request)  # fails for raw members that are no JSON, at any depth
    except JsonError as error:
        raise InvalidRequest(str(error), param=error.path, code=error.code) from None
    for name in _UNSERVED:
        if members.get(name) is not None:
            raise InvalidRequest(
                f"Unsupported parameter: '{name}' is not served here.", param=name, code="unsupported_parameter"
            )


def _check_input(request: ResponseRequest) -> None:
    form = request.input.WhichOneof("value")
    if form is None and not request.previous_response_id:
        raise _missing("input")
    if form == "items" and not request.input.items.items and not request.previous_response_id:
        raise _invalid("input", "expected at least one item, but got an empty array instead")
    for index, item in enumerate(request.input.items.items):
        _check_item(item, f"input[{index}]")


def _check_item(item: ResponseItem, path: str) -> None:
    kind = kind_of(item)
    if kind == "message":
        if not item.role:
            raise _missing(f"{path}.role")
        if item.role not in _ROLES:
            allowed = ", ".join(f"'{role}'" for role in sorted(_ROLES))
            raise InvalidRequest(
                f"Invalid value: '{item.role[:100]}'. Supported values are: {allowed}.",
                param=f"{path}.role",
                code="invalid_value",
            )
        if not item.HasField("content"):
            raise _missing(f"{path}.content")
    elif kind in ("function_call", "custom_tool_call"):
        for name in ("call_id", "name"):
            if not getattr(item, name):
                raise _missing(f"{path}.{name}")
    elif kind in ("function_call_output", "custom_tool_call_output"):
        if not item.call_id:
            raise _missing(f"{path}.call_id")
        if not item.HasField("output"):
            raise _missing(f"{path}.output")
    elif kind == "item_reference" and not item.id:
        raise _missing(f"{path}.id")


def _check_ranges(request: ResponseRequest) -> None:
    for name, (least, most) in _RANGES.items():
        if request.HasField(name):  # type: ignore[arg-type]  # the stub wants literals
            value = getattr(request, name)
            if not least <= value <= most:
                raise _invalid(name, f"expected a value from {least:.12g} to {most:.12g}, but got {value:.12g} instead")


def _check_format(request: ResponseRequest) -> None:
    form = request.text.format
    if not request.text.HasField("format"):
        return
    if form.type not in _FORMATS:
        if not form.type:
            raise _missing("text.format.type")
        raise _invalid("text.format.type", "expected one of 'text', 'json_object' or 'json_schema'")
    if form.type == "json_schema":
        for name in ("name", "schema"):
            if not getattr(form, name):
                raise _missing(f"text.format.{name}")


def _missing(param: str) -> InvalidRequest:
    return InvalidRequest(f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter")


def _invalid(param: str, problem: str, *, code: str = "invalid_value") -> InvalidRequest:
    return InvalidRequest(f"Invalid value for '{param}': {problem}.", param=param, code=code)
