"""What a chat request must satisfy before anything is reserved: clear refusals, in OpenAI's words. Pure.

Only what would otherwise cost money, hang or be misread is checked here. What a certain provider dislikes, it says.
"""

from typing import Any

from quillgate.v1.chat_completion_pb2 import ChatCompletionRequest
from quillgate_codec import JsonError, chat_request
from quillgate_core.catalogue import Model
from quillgate_core.errors import InvalidRequest

ROLES = frozenset({"developer", "system", "user", "assistant", "tool", "function"})

_RANGES: dict[str, tuple[float, float]] = {
    "max_tokens": (1, 100_000_000),
    "max_completion_tokens": (1, 100_000_000),
    "n": (1, 128),
    "temperature": (0, 2),
    "top_p": (0, 1),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
    "top_logprobs": (0, 20),
}


def check_chat(request: ChatCompletionRequest) -> None:
    """Raises InvalidRequest, naming the member, for a request that can never work."""
    if not request.model:
        raise _missing("model")
    if not request.messages:
        raise _missing("messages")
    _check_roles(request)
    _check_ranges(request)
    try:
        chat_request.check_extra(request)
    except JsonError as error:
        raise InvalidRequest(str(error), param=error.path, code=error.code) from None


def check_endpoint(model: Model) -> None:
    """Raises InvalidRequest for a model that nobody chats with, such as one that hears."""
    if "chat.completions" not in model.endpoints:
        message = f"The model `{model.id}` does not support the endpoint `/chat/completions`."
        raise InvalidRequest(message, param="model", code="unsupported_value")


def _check_roles(request: ChatCompletionRequest) -> None:
    for index, message in enumerate(request.messages):
        if message.role not in ROLES:
            param = f"messages[{index}].role"
            if not message.role:
                raise _missing(param)
            allowed = ", ".join(f"'{role}'" for role in sorted(ROLES))
            raise InvalidRequest(
                f"Invalid value: '{message.role[:100]}'. Supported values are: {allowed}.",
                param=param,
                code="invalid_value",
            )


def _check_ranges(request: ChatCompletionRequest) -> None:
    is_set: Any = request.HasField  # the stub wants literals
    for name, bounds in _RANGES.items():
        if is_set(name):
            value, (least, most) = getattr(request, name), bounds
            if not least <= value <= most:
                problem = f"expected a value from {least:.12g} to {most:.12g}, but got {value:.12g} instead"
                raise InvalidRequest(f"Invalid value for '{name}': {problem}.", param=name, code="invalid_value")


def _missing(param: str) -> InvalidRequest:
    return InvalidRequest(f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter")
