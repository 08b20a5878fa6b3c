"""How hard to think is told as each generation wants it, and thoughts come back as they were and where they stood."""

import json
from typing import Any

import pytest
from fakes.anthropic_bodies import USER, added, asked, refusal, turns
from hypothesis import given
from hypothesis import strategies as st

from quillgate_codec import provider_chat_answer
from quillgate_core.providers.anthropic_answer import answer_of
from quillgate_core.providers.anthropic_wire import decode_message

ADAPTIVE = {"type": "adaptive", "display": "summarized"}
TOOL = {"type": "function", "function": {"name": "f"}}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
DETAIL = {"type": "reasoning.text", "text": "t", "signature": "s", "id": "at-0-0", "format": "anthropic-claude-v1"}
THOUGHT = {"type": "thinking", "thinking": "t", "signature": "s"}


def budget(tokens: int) -> dict[str, Any]:
    """A budget to think with."""
    return {"thinking": {"type": "enabled", "budget_tokens": tokens}}


@pytest.mark.parametrize(
    ("model", "members", "sent"),
    [
        ("claude-opus-5-5", {}, {}),
        ("claude-opus-5-5", {"reasoning_effort": "high"}, {"thinking": ADAPTIVE, "output_config": {"effort": "high"}}),
        (
            "claude-opus-5-5",
            {"reasoning": {"effort": "minimal"}},
            {"thinking": ADAPTIVE, "output_config": {"effort": "low"}},
        ),
        ("claude-opus-5-5", {"reasoning": {"enabled": True}}, {"thinking": ADAPTIVE}),
        ("claude-opus-5-5", {"reasoning": {"max_tokens": 5000}}, {"thinking": ADAPTIVE}),
        (
            "claude-opus-5-5",
            {"reasoning": {"effort": "low", "exclude": True}},
            {"thinking": {"type": "adaptive", "display": "omitted"}, "output_config": {"effort": "low"}},
        ),
        ("claude-opus-5-5", {"reasoning_effort": "none"}, {"output_config": {"effort": "low"}}),
        ("claude-sonnet-5-5", {"reasoning_effort": "none"}, {"thinking": {"type": "between_tools"}}),
        ("claude-opus-5", {"reasoning": {"enabled": False}}, {"thinking": {"type": "disabled"}}),
        ("claude-opus-4-8", {"reasoning_effort": "none"}, {}),
        ("claude-sonnet-4-5", {"reasoning_effort": "none"}, {}),
        ("claude-sonnet-4-5", {"reasoning": {"exclude": True}}, {}),
        ("claude-sonnet-4-5", {"reasoning_effort": "low"}, budget(12_800)),
        ("claude-sonnet-4-5", {"reasoning_effort": "high"}, budget(32_000)),
        ("claude-sonnet-4-5", {"reasoning": {"enabled": True}}, budget(32_000)),
        ("claude-sonnet-4-5", {"reasoning_effort": "medium", "max_tokens": 5000}, {"max_tokens": 5000, **budget(2500)}),
        ("claude-sonnet-4-5", {"reasoning_effort": "low", "max_tokens": 2000}, {"max_tokens": 2000, **budget(1024)}),
        ("claude-sonnet-4-5", {"reasoning_effort": "high", "max_tokens": 1024}, {"max_tokens": 1024}),
        ("claude-sonnet-4-5", {"reasoning": {"max_tokens": 50_000}}, budget(50_000)),
        (
            "claude-sonnet-4-5",
            {"reasoning": {"max_tokens": 9000}, "max_tokens": 5000},
            {"max_tokens": 5000, **budget(4000)},
        ),
        ("claude-3-5-haiku-latest", {"reasoning_effort": "high"}, {}),
        ("claude-sonnet-4-5", budget(2000), budget(2000)),
        (
            "claude-opus-5-5",
            {"output_config": {"effort": "max"}, "reasoning_effort": "low"},
            {"thinking": ADAPTIVE, "output_config": {"effort": "max"}},
        ),
    ],
)
def test_the_wish_is_told_as_the_model_wants_it(model: str, members: dict[str, Any], sent: dict[str, Any]) -> None:
    """OpenAI's effort, OpenRouter's settings and Anthropic's own become adaptive thinking, a budget, or nothing."""
    assert added(model=model, **members) == sent


def test_an_unknown_effort_is_refused() -> None:
    """A wish that nobody understands is told by the name it came under."""
    assert refusal(reasoning_effort="much") == ("reasoning_effort", "invalid_value")
    assert refusal(reasoning={"effort": "much"}) == ("reasoning.effort", "invalid_value")


@pytest.mark.parametrize(("limit", "sent"), [(4_000, budget(3_200)), (1_100, budget(1_024)), (600, None)])
def test_a_lowered_limit_lowers_the_budget(limit: int, sent: dict[str, Any] | None) -> None:
    """What the allowance leaves makes no budget invalid that was valid with the client's own limit."""
    body = asked(max_tokens=9_000, max_output_tokens=limit, **budget(8_000))
    assert body["thinking"] == (sent or {"thinking": {"type": "disabled"}})["thinking"]


def test_thinking_takes_no_sampling() -> None:
    """Anthropic refuses temperatures while a model thinks, and the client asked for thoughts."""
    assert "temperature" not in asked(reasoning_effort="low", temperature=0.2)
    assert "temperature" in asked(reasoning_effort="none", temperature=0.2)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "f"}}])
def test_a_forced_tool_wins_over_thinking(choice: Any) -> None:
    """A model that must call a tool may not think with a budget; the call is what the client needs."""
    members = {"tools": [TOOL], "tool_choice": choice, "reasoning_effort": "low"}
    assert "thinking" not in asked(**members)
    assert "thinking" not in asked(model="claude-opus-4-6", **members)
    assert asked(model="claude-opus-5", **members)["thinking"] == ADAPTIVE


@pytest.mark.parametrize(("details", "thinks"), [([DETAIL], True), ([], False)])
def test_thinking_with_a_budget_does_not_begin_within_a_loop(details: list[Any], thinks: bool) -> None:
    """Anthropic refuses a budget when the last calls came without thoughts, as with clients that do not keep them."""
    calling = {"role": "assistant", "content": None, "tool_calls": [CALL], "reasoning_details": details}
    messages = [USER, calling, {"role": "tool", "tool_call_id": "c", "content": "r"}]
    body = asked(messages=messages, tools=[TOOL], reasoning_effort="low")
    assert ("thinking" in body) is thinks
    for model in ("claude-opus-4-6", "claude-opus-5"):  # adaptive thinking may begin at any time
        assert "thinking" in asked(model=model, messages=messages, tools=[TOOL], reasoning_effort="low")


@pytest.mark.parametrize(
    ("members", "thoughts"),
    [
        ({"reasoning_details": [DETAIL]}, [THOUGHT]),
        ({"reasoning_details": [{**DETAIL, "format": None, "id": None}]}, [THOUGHT]),
        ({"reasoning_details": [{**DETAIL, "text": None}]}, [{**THOUGHT, "thinking": ""}]),
        (
            {"reasoning_details": [{**DETAIL, "type": "reasoning.encrypted", "data": "d"}]},
            [{"type": "redacted_thinking", "data": "d"}],
        ),
        (
            {"thinking_blocks": [THOUGHT, {"type": "redacted_thinking", "data": "d"}]},
            [THOUGHT, {"type": "redacted_thinking", "data": "d"}],
        ),
        ({"reasoning_content": "t"}, []),
        ({"reasoning_details": [{**DETAIL, "format": "openai-responses-v1"}]}, []),
        ({"reasoning_details": [{**DETAIL, "signature": None}, {**DETAIL, "signature": ""}, "x", 5]}, []),
        ({"reasoning_details": [{**DETAIL, "type": "reasoning.encrypted"}]}, []),
        ({"reasoning_details": {}}, []),
        ({"thinking_blocks": [{"type": "thinking", "thinking": "t"}, {"type": "text", "text": "x"}]}, []),
    ],
)
def test_thoughts_that_come_back(members: dict[str, Any], thoughts: list[Any]) -> None:
    """Signed thoughts of Anthropic's stand first in their turn, unchanged; what it would refuse is left out."""
    _, (_, said) = turns(USER, {"role": "assistant", "content": "a", **members})
    assert said == [*thoughts, {"type": "text", "text": "a"}]


def test_a_place_beyond_the_text_is_its_end() -> None:
    """A client that shortened the text loses no thought."""
    details = [{**DETAIL, "id": "at-99-9"}]
    _, (_, said) = turns(
        USER, {"role": "assistant", "content": "a", "tool_calls": [CALL], "reasoning_details": details}
    )
    assert [block["type"] for block in said] == ["text", "tool_use", "thinking"]


def test_splitting_a_text_leaves_no_blank() -> None:
    """White space after a thought's place is no text of its own, which Anthropic would refuse."""
    details = [{**DETAIL, "id": "at-1-0"}]
    _, (_, said) = turns(
        USER, {"role": "assistant", "content": "a\n\n", "tool_calls": [CALL], "reasoning_details": details}
    )
    assert [block["type"] for block in said] == ["text", "thinking", "tool_use"]


TEXTS = st.text("ab é🦜\n", min_size=1, max_size=5).filter(str.strip)
SIGNED = st.builds(
    lambda text, signature: {"type": "thinking", "thinking": text, "signature": signature},
    st.text("xyz", max_size=3),
    st.text("ABC", min_size=1, max_size=3),
)
HIDDEN = st.builds(lambda data: {"type": "redacted_thinking", "data": data}, st.text("DEF", min_size=1, max_size=3))
THOUGHTS = st.lists(st.one_of(SIGNED, HIDDEN), max_size=2)


@st.composite
def answers(draw: st.DrawFn) -> list[dict[str, Any]]:
    """The blocks of an answer: texts, then calls, with thoughts anywhere; no two texts stand together."""
    blocks: list[dict[str, Any]] = draw(THOUGHTS)
    for words in draw(st.lists(TEXTS, max_size=3)):
        if blocks and blocks[-1]["type"] == "text":
            blocks.append(draw(SIGNED))
        blocks += [{"type": "text", "text": words}, *draw(THOUGHTS)]
    for number in range(draw(st.integers(0, 3))):
        use = {"type": "tool_use", "id": f"c{number}", "name": "f", "input": {"z": number, "a": [None, 1.5]}}
        blocks += [use, *draw(THOUGHTS)]
    return blocks


@given(answers())
def test_an_answer_comes_back_as_it_was(blocks: list[dict[str, Any]]) -> None:
    """What a client got and sends back is the turn that Anthropic wrote, block by block, signatures untouched."""
    message = {"content": blocks, "stop_reason": "end_turn"}
    answer = answer_of(decode_message(json.dumps(message).encode()))
    echoed = provider_chat_answer.to_value(answer)["choices"][0]["message"]
    made = turns(USER, echoed, USER)
    assert [block for role, turn in made if role == "assistant" for block in turn] == blocks
