"""Turns a chat request in OpenAI's form into a vendor's, in place, by what its dialect says. Pure.

It must not lose what a caller would miss: what the vendor cannot serve raises InvalidRequest with the member's path.
"""

from collections.abc import Iterator
from typing import Any, Final

from quillgate_core.errors import InvalidRequest
from quillgate_core.providers.addresses import Addresses
from quillgate_core.providers.dialects import Dialect
from quillgate_core.providers.mistral import mistral_message
from quillgate_core.upstream import Capability

_LIMITS: Final = ("max_completion_tokens", "max_tokens")
_THOUGHTS: Final = ("reasoning_content", "reasoning", "reasoning_details")
_ANSWER_ONLY: Final = ("annotations",)
"""What clients send back of an answer that no vendor with closed schemas takes."""
_PARTS: Final[dict[Any, Capability]] = {"image_url": "images", "file": "files", "input_audio": "audio"}
_FORMATS: Final[dict[Any, Capability]] = {"json_object": "json_object", "json_schema": "json_schema"}


def translate(
    value: dict[str, Any], dialect: Dialect, addresses: Addresses, *, provider: str, max_output_tokens: int | None
) -> None:
    """Makes the request the vendor's; `max_output_tokens` replaces the limit that the client set."""
    _check(value, dialect, provider)
    _set_limit(value, dialect, addresses, max_output_tokens)
    if not (dialect.takes_stream_options and addresses.takes_stream_options):
        value.pop("stream_options", None)
    for message in _objects(value.get("messages")):
        _translate_message(message, dialect)
    _translate_effort(value, dialect)
    for name in dialect.drops | dialect.refuses:
        value.pop(name, None)
    for name, theirs in dialect.renames.items():
        if name in value:
            value.setdefault(theirs, value.pop(name))


def _check(value: dict[str, Any], dialect: Dialect, provider: str) -> None:
    """Raises InvalidRequest for what the vendor can never serve; what says the same as its absence is left out."""
    for name in dialect.refuses:
        if value.get(name):
            raise _refused(provider, name, "unsupported_parameter")
    if not dialect.lacks:
        return
    for capability, param, code in _asked(value):
        if capability in dialect.lacks:
            raise _refused(provider, param, code)
    if "choices" in dialect.lacks and value.get("n") in (None, 1):
        value.pop("n", None)
    if "logprobs" in dialect.lacks:
        value.pop("logprobs", None)
        value.pop("top_logprobs", None)


def _asked(value: dict[str, Any]) -> Iterator[tuple[Capability, str, str]]:
    """Yields what the request asks for beyond text, with the member that does and how its refusal is called."""
    for number, message in enumerate(_objects(value.get("messages"))):
        for place, part in enumerate(_objects(message.get("content"))):
            if part.get("type") in _PARTS:
                yield _PARTS[part["type"]], f"messages[{number}].content[{place}]", "unsupported_value"
    if value.get("n") not in (None, 1):
        yield "choices", "n", "unsupported_value"
    for name in ("logprobs", "top_logprobs"):
        if value.get(name):
            yield "logprobs", name, "unsupported_parameter"
    if value.get("tools"):
        yield "tools", "tools", "unsupported_parameter"
    if "audio" in (value.get("modalities") or ()):
        yield "audio", "modalities", "unsupported_value"
    form = value.get("response_format")
    if type(form) is dict and form.get("type") in _FORMATS:
        yield _FORMATS[form["type"]], "response_format.type", "unsupported_value"


def _refused(provider: str, param: str, code: str) -> InvalidRequest:
    kind = "parameter" if code == "unsupported_parameter" else "value"
    message = f"Unsupported {kind}: the provider `{provider}` does not support what '{param}' asks for."
    return InvalidRequest(message, param=param, code=code)


def _set_limit(value: dict[str, Any], dialect: Dialect, addresses: Addresses, limit: int | None) -> None:
    """Puts the limit of output under the vendor's name for it."""
    name = dialect.limit_member
    if not name:
        if limit is not None:
            for present in [member for member in _LIMITS if value.get(member) is not None] or ["max_tokens"]:
                value[present] = limit
        return
    if not addresses.takes_completion_limit:
        name = "max_tokens"
    # The newer name wins, as with OpenAI.
    sent = [value.pop(member) for member in _LIMITS if member in value]
    limit = limit if limit is not None else next((number for number in sent if number is not None), None)
    if limit is not None:
        value[name] = limit


def _translate_message(message: dict[str, Any], dialect: Dialect) -> None:
    if not dialect.knows_developer and message.get("role") == "developer":
        message["role"] = "system"
    if not dialect.takes_names and message.get("role") != "tool":
        message.pop("name", None)
    if dialect.thoughts is not None:
        _translate_thoughts(message, dialect.thoughts)
    if dialect.is_mistral:
        mistral_message(message)


def _translate_thoughts(message: dict[str, Any], taken: tuple[str, ...]) -> None:
    """Puts an assistant's thoughts where the vendor looks for them, or nowhere."""
    thought = message.get("reasoning_content") or message.get("reasoning")
    for name in (*_THOUGHTS, *(() if taken else _ANSWER_ONLY)):
        if name not in taken:
            message.pop(name, None)
    if taken and thought:
        message.setdefault(taken[0], thought)


def _translate_effort(value: dict[str, Any], dialect: Dialect) -> None:
    """Asks for reasoning as the vendor wants it; OpenRouter's `reasoning` says the same in another form."""
    if dialect.effort != "as_sent":
        asked = value.pop("reasoning", None)
        effort = _effort_of(asked) if type(asked) is dict else None
        if effort is not None and value.get("reasoning_effort") is None:
            value["reasoning_effort"] = effort
    effort = value.get("reasoning_effort")
    if type(effort) is str:
        value["reasoning_effort"] = dialect.efforts.get(effort, effort)
    if dialect.effort == "thinking" and effort == "none":
        del value["reasoning_effort"]
        value.setdefault("thinking", {"type": "disabled"})


def _effort_of(reasoning: dict[str, Any]) -> str | None:
    if reasoning.get("enabled") is False:
        return "none"
    effort = reasoning.get("effort")
    return effort if type(effort) is str else None


def _objects(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if type(item) is dict] if type(value) is list else []
