"""What a text completion request must satisfy before anything is reserved: clear refusals, in OpenAI's words. Pure.

Only what would otherwise cost money, hang or be misread is checked here. What a certain provider dislikes, it says.
"""

from quillgate.v1.text_completion_pb2 import TextCompletionRequest, TextPromptItem, TextPromptList
from quillgate_codec import JsonError, text_completion_request
from quillgate_core.catalogue import Model
from quillgate_core.errors import InvalidRequest

MAX_PROMPTS = 2048
"""The most prompts of one request, OpenAI's own limit."""

_RANGES: dict[str, tuple[float, float]] = {
    "max_tokens": (0, 100_000_000),  # 0 with `echo` asks for the log probabilities of a prompt
    "n": (1, 128),
    "best_of": (1, 20),
    "logprobs": (0, 5),
    "temperature": (0, 2),
    "top_p": (0, 1),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
}


def check_text(request: TextCompletionRequest) -> None:
    """Raises InvalidRequest, naming the member, for a request that can never work."""
    if not request.model:
        raise _missing("model")
    if request.prompt.WhichOneof("value") is None:
        raise _missing("prompt")
    if request.prompt.HasField("list"):
        _check_list(request.prompt.list)
    _check_ranges(request)
    if request.HasField("best_of") and request.best_of < max(1, request.n):
        problem = f"expected at least 'n' ({request.n}), but got {request.best_of} instead"
        raise invalid("best_of", problem)
    try:
        text_completion_request.check_extra(request)
    except JsonError as error:
        raise InvalidRequest(str(error), param=error.path, code=error.code) from None


def check_endpoint(model: Model) -> None:
    """Raises InvalidRequest for a model that is not asked in words, such as one that hears."""
    if "completions" not in model.endpoints:
        message = f"The model `{model.id}` does not support the endpoint `/completions`."
        raise InvalidRequest(message, param="model", code="unsupported_value")


def prompt_count(request: TextCompletionRequest) -> int:
    """Returns how many texts a valid request continues; a list of token ids is one."""
    items = request.prompt.list.items
    return len(items) if items and not items[0].HasField("token") else 1


def invalid(param: str, problem: str) -> InvalidRequest:
    """Returns the refusal of a member's value."""
    return InvalidRequest(f"Invalid value for '{param}': {problem}.", param=param, code="invalid_value")


def _check_list(prompts: TextPromptList) -> None:
    if not prompts.items:
        raise invalid("prompt", "expected at least one prompt, but got an empty list instead")
    form = prompts.items[0].WhichOneof("value")
    if form != "token" and len(prompts.items) > MAX_PROMPTS:
        raise invalid("prompt", f"expected at most {MAX_PROMPTS} prompts, but got {len(prompts.items)} instead")
    for index, item in enumerate(prompts.items):
        param = f"prompt[{index}]"
        if item.WhichOneof("value") != form or form is None:
            message = f"Invalid type for '{param}': all elements of 'prompt' must be of the same type."
            raise InvalidRequest(message, param=param, code="invalid_type")
        _check_tokens(item, param)


def _check_tokens(item: TextPromptItem, param: str) -> None:
    if item.HasField("tokens") and not item.tokens.tokens:
        raise invalid(param, "expected at least one token, but got an empty list instead")
    tokens = item.tokens.tokens if item.HasField("tokens") else (item.token,)
    if min(tokens) < 0:
        raise invalid(param, "token ids must be at least 0")


def _check_ranges(request: TextCompletionRequest) -> None:
    for name, (least, most) in _RANGES.items():
        if request.HasField(name):  # type: ignore[arg-type]  # the stub wants literals
            value = getattr(request, name)
            if not least <= value <= most:
                raise invalid(name, f"expected a value from {least:.12g} to {most:.12g}, but got {value:.12g} instead")


def _missing(param: str) -> InvalidRequest:
    return InvalidRequest(f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter")
