"""What vendors' answers become: one usage, one place for thoughts, OpenAI's ends, failures as failures."""

from typing import Any

import pytest

from quillgate_core.errors import Overloaded, ProviderRejected, ProviderUnavailable, QuillgateError
from quillgate_core.providers.call_pieces import CallPieces
from quillgate_core.providers.dialect_answer import clean_value
from quillgate_core.providers.provider_error import ProviderErrors

ERRORS = ProviderErrors("fake", None)


def usage_of(value: dict[str, Any]) -> Any:
    """The usage of a cleaned answer."""
    return clean_value(value, ERRORS).get("usage")


def delta_of(delta: dict[str, Any]) -> Any:
    """A cleaned delta."""
    return clean_value({"choices": [{"delta": delta}]}, ERRORS)["choices"][0]["delta"]


@pytest.mark.parametrize(
    ("usage", "cached"),
    [
        ({"prompt_cache_hit_tokens": 7, "prompt_cache_miss_tokens": 3}, {"cached_tokens": 7}),
        ({"cached_tokens": 7}, {"cached_tokens": 7}),
        ({"num_cached_tokens": 7, "prompt_tokens_details": None}, {"cached_tokens": 7}),
        ({"cached_tokens": 7, "prompt_tokens_details": {"audio_tokens": 1}}, {"audio_tokens": 1, "cached_tokens": 7}),
        ({"cached_tokens": 7, "prompt_tokens_details": {"cached_tokens": 0}}, {"cached_tokens": 0}),
        ({"cached_tokens": "7"}, None),
        ({}, None),
    ],
)
def test_cached_tokens_are_found_wherever_they_are(usage: dict[str, Any], cached: Any) -> None:
    """OpenAI's place wins; what else the vendor says stays."""
    found = usage_of({"usage": {"prompt_tokens": 10, **usage}})
    assert found.get("prompt_tokens_details") == cached
    assert set(usage) <= set(found)


def test_groqs_usage_is_found_in_its_own_member() -> None:
    """It is used only where there is no other."""
    assert usage_of({"x_groq": {"usage": {"prompt_tokens": 1}}}) == {"prompt_tokens": 1}
    assert usage_of({"usage": None, "x_groq": {"usage": {"prompt_tokens": 1}}}) == {"prompt_tokens": 1}
    assert usage_of({"usage": {"prompt_tokens": 2}, "x_groq": {"usage": {"prompt_tokens": 1}}}) == {"prompt_tokens": 2}
    assert usage_of({"x_groq": "x"}) is None


@pytest.mark.parametrize(
    ("total", "thought", "completion"),
    [(135, 94, 103), (41, 94, 9), (135, 0, 9), (135, True, 9), (135, "94", 9), (None, 94, 9)],
)
def test_thoughts_are_counted_where_the_total_has_them(total: Any, thought: Any, completion: int) -> None:
    """xAI's completion tokens lack its thoughts, which its total and its bill have: 32 + 9 + 94 = 135."""
    usage = {"prompt_tokens": 32, "completion_tokens": 9, "total_tokens": total}
    found = usage_of({"usage": {**usage, "completion_tokens_details": {"reasoning_tokens": thought}}})
    assert found["completion_tokens"] == completion


@pytest.mark.parametrize(
    ("delta", "thought"),
    [
        ({"reasoning": "a"}, "a"),
        ({"reasoning": "a", "reasoning_content": "b"}, "b"),
        ({"reasoning": "a", "reasoning_content": None}, "a"),
        ({"reasoning": None, "reasoning_details": [{"type": "reasoning.text", "text": "a"}, {"summary": "b"}]}, "ab"),
        ({"reasoning_details": [{"type": "reasoning.encrypted", "data": "x"}]}, None),
        ({"reasoning_details": "x"}, None),
        ({"reasoning": 5}, None),
        ({"content": "<think>a</think>b"}, None),
    ],
)
def test_thoughts_are_in_one_place_beside_the_vendors(delta: dict[str, Any], thought: str | None) -> None:
    """`reasoning_content` is there whatever the vendor calls it, and its own member stays; texts are left alone."""
    found = delta_of(dict(delta))
    assert found.get("reasoning_content") == thought
    assert {name: item for name, item in found.items() if name != "reasoning_content"} == {
        name: item for name, item in delta.items() if name != "reasoning_content"
    }


def test_parts_of_an_answer_are_taken_apart() -> None:
    """Mistral's reasoning models answer with a list: thoughts apart, texts joined."""
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}, {"type": "text", "text": "!"}]}
    found = delta_of({"content": [thinking, {"type": "text", "text": "a"}, {"type": "text", "text": "b"}, 7]})
    assert found == {"content": "ab", "reasoning_content": "hm!"}


@pytest.mark.parametrize(
    ("end", "openais"),
    [("eos", "stop"), ("model_length", "length"), ("end_turn", "stop"), ("stop", "stop"), ("new", "new"), (None, None)],
)
def test_ends_have_openais_names(end: Any, openais: Any) -> None:
    """Unknown ends pass as they are."""
    value = clean_value({"choices": [{"finish_reason": end}]}, ERRORS)
    assert value["choices"][0]["finish_reason"] == openais


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"choices": [{"finish_reason": "error"}]}, ProviderUnavailable),
        ({"choices": [{"finish_reason": "insufficient_system_resource"}]}, ProviderUnavailable),
        ({"choices": [{"error": {"code": 502, "message": "m"}, "finish_reason": "error"}]}, ProviderUnavailable),
        ({"choices": [{"error": {"code": 429, "message": "m"}}]}, Overloaded),
        ({"choices": [{"error": {"code": 400, "message": "m"}}]}, ProviderRejected),
        ({"choices": [], "x_groq": {"error": "over_capacity"}}, ProviderUnavailable),
    ],
)
def test_failures_within_an_answer_are_failures(value: dict[str, Any], expected: type[QuillgateError]) -> None:
    """OpenRouter, DeepSeek and Groq tell in a good answer that it went wrong."""
    with pytest.raises(expected):
        clean_value(value, ERRORS)


def test_an_empty_error_of_a_choice_is_none() -> None:
    """Its mere presence means nothing."""
    assert clean_value({"choices": [{"error": None}]}, ERRORS) == {"choices": [{}]}


def _piece(name: str = "", **members: Any) -> dict[str, Any]:
    return {"function": {"name": name, "arguments": "{}"} if name else {"arguments": "{}"}, **members}


@pytest.mark.parametrize(
    ("pieces", "indexes"),
    [
        ([_piece("f", index=0, id="a"), _piece(index=0), _piece("f", index=1, id="b"), _piece(index=1)], [0, 0, 1, 1]),
        ([_piece("f", index=0, id="a"), _piece("f", index=0, id="b"), _piece(index=0)], [0, 1, 1]),
        ([_piece("f", id="a"), _piece(), _piece("f", id="b"), _piece()], [0, 0, 1, 1]),
        ([_piece("f"), _piece("f")], [0, 1]),
        ([_piece("f", index=0, id="a"), _piece(index=0, id="x"), _piece("f", index=0, id="a")], [0, 0, 0]),
        ([_piece("f", index=3, id="a"), _piece("f", index=7, id="b"), _piece(index=3)], [3, 7, 3]),
        ([_piece("f", index=1, id="a"), _piece("f", index=0, id="b"), _piece(index=1)], [1, 0, 1]),
        ([_piece("f", index="0", id="a"), _piece("g", index=None, id="b")], [0, 1]),
    ],
)
def test_calls_of_a_stream_are_told_apart(pieces: list[dict[str, Any]], indexes: list[int]) -> None:
    """A server's numbers stay where they tell calls apart, and are made where they do not."""
    calls = CallPieces()
    for piece in pieces:
        calls.number({"choices": [{"index": 0, "delta": {"tool_calls": [piece]}}]})
    assert [piece["index"] for piece in pieces] == indexes


def test_only_the_first_piece_of_a_call_has_an_id() -> None:
    """Clients join the pieces' texts, ids among them."""
    calls, first, second = (
        CallPieces(),
        _piece("f", index=0, id="a", type="function"),
        _piece(index=0, id="b", type="x"),
    )
    calls.number({"choices": [{"delta": {"tool_calls": [first, second, "junk"]}}]})
    assert (first["id"], "id" in second, "type" in second) == ("a", False, False)


def test_choices_have_their_own_calls() -> None:
    """With several alternatives each one's calls are numbered from 0."""
    calls, pieces = CallPieces(), [_piece("f", id="a"), _piece("f", id="b")]
    calls.number(
        {"choices": [{"index": index, "delta": {"tool_calls": [piece]}} for index, piece in enumerate(pieces)]}
    )
    assert [piece["index"] for piece in pieces] == [0, 0]
