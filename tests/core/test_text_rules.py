"""Text completion requests that can never work are refused before anything is reserved."""

from typing import Any

import pytest

from quillgate.v1.text_completion_pb2 import TextCompletionRequest, TextPromptItem
from quillgate_codec import text_completion_request
from quillgate_core.catalogue import Model, ModelUpstream
from quillgate_core.errors import InvalidRequest
from quillgate_core.text_rules import MAX_PROMPTS, check_endpoint, check_text, prompt_count


def _request(**members: Any) -> TextCompletionRequest:
    return text_completion_request.from_value({"model": "m", "prompt": "Hi", **members})


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"prompt": ""},
        {"prompt": ["a", "b"]},
        {"prompt": [1, 2]},
        {"prompt": [[1], [2, 3]]},
        {"prompt": ["x"] * MAX_PROMPTS},
        {"prompt": [1] * (MAX_PROMPTS + 1)},
        {"max_tokens": 0, "echo": True, "logprobs": 0},
        {"n": 128},
        {"n": 20, "best_of": 20},
        {"seed": None, "logprobs": None, "logit_bias": {}, "top_k": 5},
    ],
)
def test_what_may_work_passes(members: dict[str, Any]) -> None:
    """Every form of prompt, the ends of the ranges, nulls and unknown members are let through."""
    check_text(_request(**members))


@pytest.mark.parametrize(
    ("members", "param", "code"),
    [
        ({"model": ""}, "model", "missing_required_parameter"),
        ({"prompt": None}, "prompt", "missing_required_parameter"),
        ({"prompt": []}, "prompt", "invalid_value"),
        ({"prompt": ["x"] * (MAX_PROMPTS + 1)}, "prompt", "invalid_value"),
        ({"prompt": ["a", 1]}, "prompt[1]", "invalid_type"),
        ({"prompt": [[1], "a"]}, "prompt[1]", "invalid_type"),
        ({"prompt": [1, -1]}, "prompt[1]", "invalid_value"),
        ({"prompt": [[1], []]}, "prompt[1]", "invalid_value"),
        ({"prompt": [[1, -2]]}, "prompt[0]", "invalid_value"),
        ({"max_tokens": -1}, "max_tokens", "invalid_value"),
        ({"n": 0}, "n", "invalid_value"),
        ({"n": 129}, "n", "invalid_value"),
        ({"best_of": 21}, "best_of", "invalid_value"),
        ({"n": 3, "best_of": 2}, "best_of", "invalid_value"),
        ({"logprobs": 6}, "logprobs", "invalid_value"),
        ({"temperature": 2.1}, "temperature", "invalid_value"),
        ({"top_p": float("nan")}, "top_p", "invalid_value"),
        ({"presence_penalty": -2.5}, "presence_penalty", "invalid_value"),
        ({"frequency_penalty": 2.5}, "frequency_penalty", "invalid_value"),
    ],
)
def test_what_can_never_work_is_refused(members: dict[str, Any], param: str, code: str) -> None:
    """The refusal names the member and why."""
    with pytest.raises(InvalidRequest) as caught:
        check_text(_request(**members))
    assert caught.value.metadata == {"param": param, "code": code}


def test_what_only_grpc_can_send() -> None:
    """An element of no form, and a member beside its own field, are refused too."""
    empty = _request(prompt=["a"])
    empty.prompt.list.items.append(TextPromptItem())
    with pytest.raises(InvalidRequest, match=r"prompt\[1\]"):
        check_text(empty)
    hidden = _request()
    hidden.extra_json = b'{"max_tokens":1000000}'
    with pytest.raises(InvalidRequest, match="max_tokens"):
        check_text(hidden)


def test_bounds_are_told_in_full() -> None:
    """A refusal shows what was sent and what may be sent digit by digit, not rounded."""
    with pytest.raises(InvalidRequest, match="from 0 to 100000000, but got 123456789 instead"):
        check_text(_request(max_tokens=123_456_789))


@pytest.mark.parametrize(
    ("prompt", "count"), [("a", 1), (["a"], 1), (["a", "b"], 2), ([1, 2, 3], 1), ([[1], [2], [3]], 3)]
)
def test_prompts_are_counted(prompt: Any, count: int) -> None:
    """A list of token ids is one prompt, any other list as many as its elements."""
    assert prompt_count(_request(prompt=prompt)) == count


def test_model_that_is_not_asked_in_words() -> None:
    """A model without the endpoint is refused by name."""
    upstreams = (ModelUpstream("p", "m"),)
    model = Model("a/ear", 1, 1, upstreams, endpoints=("audio.transcriptions",))
    with pytest.raises(InvalidRequest, match="a/ear") as caught:
        check_endpoint(model)
    assert caught.value.metadata["param"] == "model"
    check_endpoint(Model("a/mouth", 1, 1, upstreams))
