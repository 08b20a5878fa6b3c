"""Requests that can never work are refused by the member at fault, before anything is reserved."""

import math
from typing import Any

import pytest

from quillgate.v1.chat_completion_pb2 import ChatCompletionRequest, ChatMessage
from quillgate_codec import chat_request
from quillgate_core.chat_rules import ROLES, check_chat
from quillgate_core.errors import InvalidRequest

BOUNDS: list[tuple[str, float, float, float]] = [
    ("max_tokens", 1, 100_000_000, 1),
    ("max_completion_tokens", 1, 100_000_000, 1),
    ("n", 1, 128, 1),
    ("temperature", 0, 2, 0.001),
    ("top_p", 0, 1, 0.001),
    ("presence_penalty", -2, 2, 0.001),
    ("frequency_penalty", -2, 2, 0.001),
    ("top_logprobs", 0, 20, 1),
]


def _request(**fields: Any) -> ChatCompletionRequest:
    return ChatCompletionRequest(**{"model": "m", "messages": [ChatMessage(role="user")], **fields})


def _refusal(request: ChatCompletionRequest) -> tuple[str, str]:
    with pytest.raises(InvalidRequest) as caught:
        check_chat(request)
    assert set(caught.value.metadata) == {"param", "code"}
    return caught.value.metadata["param"], caught.value.metadata["code"]


def test_least_request_is_good() -> None:
    """A model and one message are enough; a message may be of any role."""
    check_chat(_request())
    for role in ROLES:
        check_chat(_request(messages=[ChatMessage(role=role)]))


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"),
        ({"model": ""}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": [ChatMessage(role="user"), ChatMessage()]}, "messages[1].role"),
        ({"messages": [ChatMessage(role="")]}, "messages[0].role"),
    ],
)
def test_required_members(fields: dict[str, Any], param: str) -> None:
    """What is missing is named by its path, in OpenAI's word."""
    assert _refusal(_request(**fields)) == (param, "missing_required_parameter")


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_bounds_are_told_in_full(name: str) -> None:
    """A refusal shows what was sent and what may be sent digit by digit, not rounded."""
    with pytest.raises(InvalidRequest) as caught:
        check_chat(_request(**{name: 123_456_789}))
    expected = "expected a value from 1 to 100000000, but got 123456789 instead"
    assert str(caught.value) == f"Invalid value for '{name}': {expected}."


@pytest.mark.parametrize("role", ["User", "bot", " user", "x" * 100_000])
def test_unknown_role(role: str) -> None:
    """A role that no model knows is refused with those that there are, and quoted in part only."""
    request = _request(messages=[ChatMessage(role="user"), ChatMessage(role=role)])
    assert _refusal(request) == ("messages[1].role", "invalid_value")
    with pytest.raises(
        InvalidRequest, match="'assistant', 'developer', 'function', 'system', 'tool', 'user'"
    ) as caught:
        check_chat(request)
    assert len(caught.value.message) < 300


@pytest.mark.parametrize(("name", "least", "most", "step"), BOUNDS)
def test_numbers_within_their_ranges(name: str, least: float, most: float, step: float) -> None:
    """Both bounds are allowed and the next value beyond each is not, and an absent number is no zero."""
    for value in (least, most):
        check_chat(_request(**{name: value}))
    for value in (least - step, most + step):
        assert _refusal(_request(**{name: value})) == (name, "invalid_value")


@pytest.mark.parametrize("name", ["temperature", "top_p", "presence_penalty", "frequency_penalty"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_must_be_finite(name: str, value: float) -> None:
    """Over gRPC a float may be NaN, which is in no range."""
    assert _refusal(_request(**{name: value})) == (name, "invalid_value")


def test_unknown_members_pass() -> None:
    """What has no field here is the provider's to understand, also null and empty forms of what has one."""
    for extra_json in (b'{"top_k":5}', b'{"max_tokens":null,"tools":[],"metadata":{}}'):
        check_chat(_request(extra_json=extra_json))


@pytest.mark.parametrize("extra_json", [b'{"max_tokens":5}', b'{"n":128}', b'{"stream":true}', b'{"model":"other"}'])
def test_known_members_cannot_hide(extra_json: bytes) -> None:
    """A limit where no code looks for it would let a request cost more than its hold."""
    assert _refusal(_request(extra_json=extra_json)) == ("extra_json", "invalid_value")


@pytest.mark.parametrize("extra_json", [b"[]", b"3", b"{", b"\xff", b"[" * 100_000])
def test_extra_must_be_an_object(extra_json: bytes) -> None:
    """Raw bytes that are no JSON object are a bad request, not a crash."""
    assert _refusal(_request(extra_json=extra_json))[1] in ("invalid_value", "invalid_json")


def test_real_request_passes_from_json() -> None:
    """What clients send, through the codec, satisfies the rules."""
    check_chat(
        chat_request.from_json(
            b'{"model":"m","messages":[{"role":"user","content":"Hi"}],"temperature":0,"max_tokens":1,"n":1,'
            b'"stream":true,"stream_options":{"include_usage":true},"seed":null,"tools":[],"top_k":3}'
        )
    )
