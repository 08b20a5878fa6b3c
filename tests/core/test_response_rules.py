"""Response requests that can never work are refused by name, before anything is looked up or reserved."""

from typing import Any

import msgspec
import pytest

from quillgate_codec import response_request
from quillgate_core.errors import InvalidRequest
from quillgate_core.response_rules import check_response

SCHEMA = {"type": "json_schema", "name": "n", "schema": {}}
MISSING = "missing_required_parameter"


def _check(**value: Any) -> None:
    members = {"model": "a/m", "input": "hi", **value}
    kept = {name: item for name, item in members.items() if item is not None}
    check_response(response_request.from_json(msgspec.json.encode(kept)))


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"input": "", "stream": True},
        {"input": None, "previous_response_id": "resp_1"},
        {"input": [], "previous_response_id": "resp_1"},
        {"input": [{"role": "user", "content": []}]},
        {"input": [{"id": "msg_1"}]},
        {"input": [{"type": "something_new", "x": 1}]},
        {"background": False, "tools": [], "include": [], "metadata": {}},
        {"temperature": 0, "top_p": 1, "max_output_tokens": 1, "top_logprobs": 20},
        {"text": {"format": SCHEMA}},
        {"text": {"verbosity": "low"}},
        {"tools": [{"type": "function", "name": "f"}, {"type": "web_search"}]},
    ],
)
def test_good_requests(members: dict[str, Any]) -> None:
    """What can work passes."""
    _check(**members)


@pytest.mark.parametrize(
    ("members", "param", "code"),
    [
        ({"model": None}, "model", MISSING),
        ({"input": None}, "input", MISSING),
        ({"input": []}, "input", "invalid_value"),
        ({"background": True}, "background", "unsupported_value"),
        ({"conversation": "conv_1"}, "conversation", "unsupported_parameter"),
        ({"prompt": {"id": "p"}}, "prompt", "unsupported_parameter"),
        ({"max_output_tokens": 0}, "max_output_tokens", "invalid_value"),
        ({"temperature": 2.1}, "temperature", "invalid_value"),
        ({"top_p": -0.1}, "top_p", "invalid_value"),
        ({"top_logprobs": 21}, "top_logprobs", "invalid_value"),
        ({"max_tool_calls": 0}, "max_tool_calls", "invalid_value"),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata", "invalid_value"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role", "invalid_value"),
        ({"input": [{"content": "x"}]}, "input[0].role", MISSING),
        ({"input": [{"role": "user"}]}, "input[0].content", MISSING),
        ({"input": [{"type": "function_call", "name": "f"}]}, "input[0].call_id", MISSING),
        ({"input": [{"type": "function_call", "call_id": "c"}]}, "input[0].name", MISSING),
        ({"input": [{"type": "function_call_output", "output": "x"}]}, "input[0].call_id", MISSING),
        ({"input": [{"type": "function_call_output", "call_id": "c"}]}, "input[0].output", MISSING),
        ({"input": [{"type": "item_reference"}]}, "input[0].id", MISSING),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type", "invalid_value"),
        ({"text": {"format": {}}}, "text.format.type", MISSING),
        ({"text": {"format": {"type": "json_schema", "schema": {}}}}, "text.format.name", MISSING),
        ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format.schema", MISSING),
        ({"tools": [{"name": "f"}]}, "tools[0].type", MISSING),
        ({"tools": [{"type": "function"}]}, "tools[0].name", MISSING),
    ],
)
def test_bad_requests(members: dict[str, Any], param: str, code: str) -> None:
    """The refusal names the member and OpenAI's code."""
    with pytest.raises(InvalidRequest) as caught:
        _check(**members)
    assert (caught.value.metadata["param"], caught.value.metadata["code"]) == (param, code)


def test_bounds_are_told_in_full() -> None:
    """A refusal shows what was sent and what may be sent digit by digit, not rounded."""
    with pytest.raises(InvalidRequest, match="from 1 to 100000000, but got 123456789 instead"):
        _check(max_output_tokens=123_456_789)


def test_members_hidden_in_extra_json() -> None:
    """A gRPC caller cannot set a typed member where no code looks for it."""
    request = response_request.from_json(b'{"model": "a/m", "input": "hi"}')
    request.extra_json = b'{"background": true}'
    with pytest.raises(InvalidRequest):
        check_response(request)


def test_raw_members_that_are_no_json() -> None:
    """A gRPC caller hears of them before anything is reserved, wherever they are."""
    for broken in (b"{", b"[]"):
        request = response_request.from_json(b'{"model": "a/m", "input": [{"role": "user", "content": "x"}]}')
        request.input.items.items[0].extra_json = broken
        with pytest.raises(InvalidRequest) as caught:
            check_response(request)
        assert caught.value.metadata["param"] == "input[0].extra_json"
