"""What Anthropic is asked for requests in OpenAI's form, decoded, for tests of the translation."""

import json
from collections.abc import Sequence
from typing import Any

import pytest

from quillgate_codec import chat_request
from quillgate_core.errors import InvalidRequest
from quillgate_core.providers.anthropic_request import body_of

MODEL = "claude-sonnet-4-5-20250929"
USER = {"role": "user", "content": "hi"}


def asked(
    *,
    model: str = MODEL,
    max_output_tokens: int | None = None,
    messages: Sequence[dict[str, Any]] = (USER,),
    **members: Any,
) -> dict[str, Any]:
    """The body for a request with these members, of one user turn unless they say otherwise."""
    request = chat_request.from_value({"model": "public", "messages": list(messages), **members})
    body = body_of(request, model=model, stream=False, max_output_tokens=max_output_tokens)
    value: dict[str, Any] = json.loads(body)
    return value


def added(**members: Any) -> dict[str, Any]:
    """What the members add to the body of a request without them."""
    options = {name: members.pop(name) for name in ("model", "max_output_tokens") if name in members}
    bare = asked(**options)
    return {name: item for name, item in asked(**options, **members).items() if bare.get(name) != item}


def turns(*messages: dict[str, Any]) -> list[tuple[str, list[Any]]]:
    """The turns that the messages become."""
    return [(turn["role"], turn["content"]) for turn in asked(messages=messages)["messages"]]


def refusal(messages: Sequence[dict[str, Any]] = (USER,), **members: Any) -> tuple[str, str]:
    """The parameter and the code that a request is refused for."""
    with pytest.raises(InvalidRequest) as caught:
        asked(messages=messages, **members)
    assert caught.value.message
    return caught.value.metadata["param"], caught.value.metadata["code"]
