"""How a conversation in OpenAI's form becomes Anthropic's: turns that alternate, results first, thoughts in place."""

import json
from itertools import pairwise
from typing import Any

import pytest
from fakes.anthropic_bodies import asked, refusal, turns
from hypothesis import given
from hypothesis import strategies as st

MARK = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}


def user(text: str) -> dict[str, Any]:
    """A user's message."""
    return {"role": "user", "content": text}


def call(call_id: str, arguments: str = "{}", name: str = "f") -> dict[str, Any]:
    """A call of a tool."""
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def calling(*calls: dict[str, Any], **members: Any) -> dict[str, Any]:
    """An assistant's message that calls tools."""
    return {"role": "assistant", "content": None, "tool_calls": list(calls), **members}


def result(call_id: str, content: Any = "r", **members: Any) -> dict[str, Any]:
    """What a tool answered."""
    return {"role": "tool", "tool_call_id": call_id, "content": content, **members}


def text(words: str) -> dict[str, Any]:
    """A block of text."""
    return {"type": "text", "text": words}


def test_system_texts_are_one_system() -> None:
    """System and developer texts, wherever they stand, are blocks of `system` in their order, with their marks."""
    marked = {"role": "system", "content": [{"type": "text", "text": "b", **MARK}]}
    body = asked(messages=[{"role": "developer", "content": "a"}, user("hi"), marked])
    assert body["system"] == [text("a"), {**text("b"), **MARK}]
    assert body["messages"] == [{"role": "user", "content": [text("hi")]}]


def test_a_conversation_of_system_texts_is_asked() -> None:
    """Anthropic wants a turn, so texts of the system alone are asked as the user's."""
    body = asked(messages=[{"role": "system", "content": "Write a poem."}])
    assert "system" not in body
    assert body["messages"] == [{"role": "user", "content": [text("Write a poem.")]}]


def test_messages_of_one_speaker_are_one_turn() -> None:
    """Roles alternate, whatever the client sent."""
    said = [user("a"), user("b"), {"role": "assistant", "content": "c"}, {"role": "assistant", "content": "d"}]
    assert turns(*said, user("e")) == [
        ("user", [text("a"), text("b")]),
        ("assistant", [text("c"), text("d")]),
        ("user", [text("e")]),
    ]


def test_results_come_first_in_their_turn() -> None:
    """The results of parallel calls are in one turn, before what the user adds, also when they come later."""
    messages = [user("q"), calling(call("1"), call("2")), result("1", "x"), user("and?"), result("2", "y")]
    results = [
        {"type": "tool_result", "tool_use_id": str(number), "content": said} for number, said in [(1, "x"), (2, "y")]
    ]
    uses = [{"type": "tool_use", "id": str(number), "name": "f", "input": {}} for number in (1, 2)]
    assert turns(*messages) == [
        ("user", [text("q")]),
        ("assistant", uses),
        ("user", [*results, text("and?")]),
    ]


def test_each_turn_has_its_own_results_first() -> None:
    """The results of a second round of calls come first in their turn as well."""
    first = [user("q"), calling(call("1"), call("2")), result("1"), result("2")]
    made = turns(*first, calling(call("3"), call("4")), result("3"), user("and?"), result("4"))
    assert [block.get("tool_use_id", block.get("text")) for block in made[-1][1]] == ["3", "4", "and?"]


def test_text_stands_before_calls() -> None:
    """An assistant's text and its calls are one turn."""
    (_, (_, said)) = turns(user("q"), {**calling(call("1")), "content": "Let me look."})
    assert said == [text("Let me look."), {"type": "tool_use", "id": "1", "name": "f", "input": {}}]


def test_arguments_keep_every_digit() -> None:
    """Arguments are sent as they are, because a decoder would round what it cannot hold."""
    arguments = '{"b": 123456789012345678901234567890, "a": 1.00}'
    body = asked(messages=[user("q"), calling(call("1", arguments)), result("1")])
    assert body["messages"][1]["content"][0]["input"] == json.loads(arguments)


@pytest.mark.parametrize(
    ("arguments", "sent"),
    [
        ("", {}),
        (" ", {}),
        ("{}", {}),
        ('{"a": ', {"INVALID_JSON": '{"a": '}),
        ("[1]", {"INVALID_JSON": "[1]"}),
        ('"x"', {"INVALID_JSON": '"x"'}),
    ],
)
def test_arguments_are_always_an_object(arguments: str, sent: Any) -> None:
    """What a model once wrote wrongly is told to it in the form that Anthropic documents for that."""
    (_, (_, said), _) = turns(user("q"), calling(call("1", arguments)), result("1"))
    assert said[0]["input"] == sent


def test_ids_of_other_providers_are_made_acceptable() -> None:
    """A call and its result keep belonging together when the id has characters that Anthropic refuses."""
    (_, (_, said), (_, answered)) = turns(user("q"), calling(call("functions.f:0|x")), result("functions.f:0|x"))
    assert said[0]["id"] == answered[0]["tool_use_id"] == "functions_f_0_x"


def test_results_may_be_images_and_errors() -> None:
    """A tool may answer with parts, with nothing, or with a failure, and may end a cached prefix."""
    image = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    parts = [{"type": "text", "text": "see"}, image]
    messages = [user("q"), calling(call("1"), call("2")), result("1", parts, **MARK), result("2", "", is_error=True)]
    source = {"type": "url", "url": "https://example.com/a.png"}
    assert turns(*messages)[-1] == (
        "user",
        [
            {
                "type": "tool_result",
                "tool_use_id": "1",
                **MARK,
                "content": [text("see"), {"type": "image", "source": source}],
            },
            {"type": "tool_result", "tool_use_id": "2", "is_error": True},
        ],
    )


def test_the_deprecated_form_of_calls_is_read() -> None:
    """A call without an id gets one, and the function's message that follows answers it."""
    (_, (_, said), (_, answered)) = turns(
        user("q"),
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": '{"a":1}'}},
        {"role": "function", "name": "f", "content": "r"},
    )
    assert (said[0]["name"], said[0]["input"], answered[0]["content"]) == ("f", {"a": 1}, "r")
    assert said[0]["id"] == answered[0]["tool_use_id"]


def test_a_free_form_call_is_told_as_one() -> None:
    """A call of a custom tool in the past is an object with its input."""
    custom = {"id": "1", "type": "custom", "custom": {"name": "f", "input": 'a "b"'}}
    (_, (_, said), _) = turns(user("q"), calling(custom), result("1"))
    assert (said[0]["name"], said[0]["input"]) == ("f", {"input": 'a "b"'})


@pytest.mark.parametrize("empty", ["", " \n", [], [{"type": "text", "text": ""}]])
def test_empty_texts_are_left_out(empty: Any) -> None:
    """Anthropic refuses blocks without words; the turns around them become one."""
    silent = {"role": "assistant", "content": empty}
    assert turns(user("a"), silent, user("b")) == [("user", [text("a"), text("b")])]


def test_a_refusal_is_what_the_assistant_said() -> None:
    """An earlier refusal is part of the conversation."""
    assert turns(user("a"), {"role": "assistant", "content": None, "refusal": "No."})[1] == ("assistant", [text("No.")])


def test_a_begun_answer_has_no_white_space_at_its_end() -> None:
    """Anthropic refuses to go on after white space."""
    assert turns(user("a"), {"role": "assistant", "content": "So: \n"})[1] == ("assistant", [text("So:")])


def test_a_mark_on_a_message_is_one_on_its_last_block() -> None:
    """Clients that write plain texts mark the whole message."""
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert turns({"role": "user", "content": parts, **MARK}) == [("user", [text("a"), {**text("b"), **MARK}])]


@pytest.mark.parametrize(
    ("messages", "refused"),
    [
        ([user("")], ("messages", "invalid_value")),
        ([user("a"), {"role": "tool", "content": "x"}], ("messages[1].tool_call_id", "missing_required_parameter")),
        ([user("a"), {"role": "function", "content": "x"}], ("messages[1].tool_call_id", "missing_required_parameter")),
    ],
)
def test_what_cannot_be_told_is_refused(messages: list[dict[str, Any]], refused: tuple[str, str]) -> None:
    """A conversation without words, and a result of nothing, are refused with their place."""
    assert refusal(messages) == refused


MESSAGES = st.one_of(
    st.builds(user, st.sampled_from(["", " ", "a", "b"])),
    st.builds(lambda words: {"role": "assistant", "content": words}, st.sampled_from(["", "c", "d "])),
    st.builds(lambda words: {"role": "system", "content": words}, st.sampled_from(["", "s"])),
    st.builds(lambda count: calling(*(call(f"c{number}") for number in range(count))), st.integers(1, 3)),
    st.builds(result, st.sampled_from(["c0", "c1"]), st.sampled_from(["", "r"])),
)


@given(st.lists(MESSAGES, max_size=8))
def test_any_conversation_alternates(messages: list[dict[str, Any]]) -> None:
    """Whatever the order of roles: turns alternate, none is empty, no text is blank, and results come first."""
    body = asked(messages=[*messages, user("end")])
    made = body["messages"]
    roles = [turn["role"] for turn in made]
    assert all(first != second for first, second in pairwise(roles))
    assert roles[-1] == "user"
    blocks = [block for turn in made for block in turn["content"]] + body.get("system", [])
    assert all(turn["content"] for turn in made)
    assert all(block["text"].strip() for block in blocks if block["type"] == "text")
    for turn in made:
        are_results = [block["type"] == "tool_result" for block in turn["content"]]
        assert are_results == sorted(are_results, reverse=True)
    texts = [message["content"] for message in messages if message["role"] == "user" and message["content"].strip()]
    assert [block["text"] for block in blocks if block.get("text") in ("a", "b")] == texts
