"""A response request as chat: conversations, tools, settings, and what clients really send."""

from typing import Any

import msgspec
import pytest

from quillgate.v1.response_pb2 import ResponseItem
from quillgate_codec import chat_request, response_item, response_request
from quillgate_core.errors import InvalidRequest
from quillgate_core.response_chat import ChatTranslation, bound_of, to_chat
from quillgate_core.response_input import own_items
from quillgate_core.response_rules import check_response

FUNCTION = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True}
CHAT_FUNCTION = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}, "strict": True}}


def _translate(value: dict[str, Any], history: list[dict[str, Any]] | None = None) -> ChatTranslation:
    request = response_request.from_json(msgspec.json.encode({"model": "a/m", "input": "hi", **value}))
    check_response(request)
    earlier: list[ResponseItem] = [response_item.from_value(item) for item in history or []]
    return to_chat(request, [*earlier, *own_items(request)], own_from=len(earlier))


def _chat(**value: Any) -> Any:
    return chat_request.to_value(_translate(value).request)


def _messages(*items: Any) -> Any:
    return _chat(input=list(items))["messages"]


def test_text_is_a_message_of_the_user() -> None:
    """The shortest request asks for nothing but what it says, with usage."""
    assert _chat() == {
        "model": "a/m",
        "messages": [{"role": "user", "content": "hi"}],
        "stream_options": {"include_usage": True},
    }


def test_instructions_go_first() -> None:
    """Before everything, the history included."""
    history = [{"type": "message", "role": "user", "content": "before"}]
    chat = chat_request.to_value(_translate({"instructions": "Be brief."}, history).request)
    assert [message["content"] for message in chat["messages"]] == ["Be brief.", "before", "hi"]
    assert chat["messages"][0]["role"] == "system"


def test_roles_and_forms_of_content() -> None:
    """Items without a type are messages; text alone becomes a string, but a user's parts stay parts."""
    assert _messages(
        {"role": "system", "content": "s"},
        {"role": "developer", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]},
        {"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]},
        {"role": "assistant", "content": "x", "phase": "commentary"},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "one"}]},
        {"role": "assistant", "content": [{"type": "output_text", "text": "a"}, {"type": "refusal", "refusal": "b"}]},
    ) == [
        {"role": "system", "content": "s"},
        {"role": "system", "content": "a\nb"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": "x"},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "ab"},
    ]


def test_images_files_and_sound() -> None:
    """Each has its own form in chat."""
    parts = [
        {"type": "input_image", "image_url": "https://x/y.png", "detail": "low"},
        {"type": "input_image", "file_id": "file_1"},
        {"type": "input_file", "file_data": "data:a", "filename": "a.pdf"},
        {"type": "input_file", "file_url": "https://x/y.pdf"},
        {"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}},
    ]
    assert _messages({"role": "user", "content": parts})[0]["content"] == [
        {"type": "image_url", "image_url": {"url": "https://x/y.png", "detail": "low"}},
        {"type": "file", "file": {"file_id": "file_1"}},
        {"type": "file", "file": {"file_data": "data:a", "filename": "a.pdf"}},
        {"type": "file", "file": {"file_data": "https://x/y.pdf"}},
        {"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}},
    ]


def _call(call_id: str) -> dict[str, Any]:
    return {"type": "function_call", "id": "fc_1", "call_id": call_id, "name": "f", "arguments": "{}"}


def _chat_call(call_id: str, name: str = "f", arguments: str = "{}") -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def _result(call_id: str) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call_id, "output": call_id}


def test_calls_are_gathered() -> None:
    """Thoughts, words and parallel calls are one message; calls after a result are another."""
    thoughts = {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]}
    said = {"role": "assistant", "content": "Let me see."}
    items = [thoughts, said, _call("a"), _call("b"), _result("a"), _result("b"), _call("c"), _result("c")]
    assert _messages({"role": "user", "content": "go"}, *items)[1:] == [
        {
            "role": "assistant",
            "content": "Let me see.",
            "reasoning_content": "Hm.",
            "tool_calls": [_chat_call("a"), _chat_call("b")],
        },
        {"role": "tool", "tool_call_id": "a", "content": "a"},
        {"role": "tool", "tool_call_id": "b", "content": "b"},
        {"role": "assistant", "tool_calls": [_chat_call("c")]},
        {"role": "tool", "tool_call_id": "c", "content": "c"},
    ]


def test_words_after_a_call_join_it() -> None:
    """A result must follow the message with its call, so what was said in between belongs to that message."""
    items = [_call("a"), {"role": "assistant", "content": "wait"}, _result("a")]
    assert [message["role"] for message in _messages(*items)] == ["assistant", "tool"]


def test_results_in_parts() -> None:
    """Text becomes a string; an image stays a part."""
    text = {**_result("a"), "output": [{"type": "input_text", "text": "x"}, {"type": "input_text", "text": "y"}]}
    image = {**_result("a"), "output": [{"type": "input_image", "image_url": "data:i"}]}
    first, second = _messages(text, image)
    assert first["content"] == "x\ny"
    assert second["content"] == [{"type": "image_url", "image_url": {"url": "data:i"}}]


def test_custom_calls_and_namespaces_are_sent_as_they_were_offered() -> None:
    """History uses the names and forms that the tools have in chat."""
    custom = {"type": "custom_tool_call", "call_id": "a", "name": "patch", "input": 'say "x"'}
    spaced = {**_call("b"), "namespace": "mcp__"}
    (message,) = _messages(custom, spaced)
    assert message["tool_calls"] == [
        _chat_call("a", "patch", '{"input":"say \\"x\\""}'),
        _chat_call("b", "mcp__f"),
    ]
    result = {"type": "custom_tool_call_output", "call_id": "a", "output": "done"}
    assert _messages(custom, result)[1] == {"role": "tool", "tool_call_id": "a", "content": "done"}


def test_encrypted_thoughts_are_left_out_silently() -> None:
    """Nobody but the provider that made them could read them, and every client sends them."""
    thoughts = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA"}
    translation = _translate({"input": [thoughts, {"role": "user", "content": "x"}]})
    assert translation.ignored == ()
    assert [message.role for message in translation.request.messages] == ["user"]


def test_thoughts_stay_with_their_turn() -> None:
    """Thoughts that led to nothing are not put into the mouth of a later message."""
    thoughts = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}]}
    messages = _messages(thoughts, {"role": "user", "content": "x"}, {"role": "assistant", "content": "y"})
    assert messages == [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]


def test_what_is_left_out_is_named() -> None:
    """Hosted tools, unknown items and parts by their path; those of earlier turns are not the request's."""
    translation = _translate(
        {
            "tools": [FUNCTION, {"type": "web_search"}],
            "input": [
                {"type": "computer_call_output", "call_id": "c", "output": {"type": "computer_screenshot"}},
                {"role": "user", "content": [{"type": "input_video"}, {"type": "input_text", "text": "x"}]},
            ],
            "truncation": "auto",
        },
        history=[{"type": "web_search_call", "id": "ws_1"}],
    )
    assert translation.ignored == (
        "tools[1]:web_search",
        "input[0]:computer_call_output",
        "input[1].content[0]:input_video",
        "truncation:auto",
    )


def test_tools() -> None:
    """Functions as they are, custom tools with one string, namespaces by their names."""
    nested = {"type": "function", "name": "g"}
    space = {"type": "namespace", "name": "mcp", "description": "d", "tools": [nested, {"type": "x"}]}
    translation = _translate({"tools": [FUNCTION, {"type": "custom", "name": "p", "description": "d"}, space]})
    chat = chat_request.to_value(translation.request)
    assert chat["tools"][0] == CHAT_FUNCTION
    assert chat["tools"][1]["function"]["parameters"]["required"] == ["input"]
    assert [tool["function"]["name"] for tool in chat["tools"]] == ["f", "p", "mcp__g"]
    assert translation.ignored == ("tools[2].tools[1]:x",)
    assert (translation.tools["mcp__g"].name, translation.tools["mcp__g"].namespace) == ("g", "mcp")


def test_tool_choice() -> None:
    """Modes as they are, a tool by its name, a set of allowed ones by leaving the others out."""
    tools = [FUNCTION, {"type": "custom", "name": "p"}]
    assert _chat(tools=tools, tool_choice="required")["tool_choice"] == "required"
    named = _chat(tools=tools, tool_choice={"type": "custom", "name": "p"})["tool_choice"]
    assert named == {"type": "function", "function": {"name": "p"}}
    allowed = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "f"}]}
    chat = _chat(tools=tools, tool_choice=allowed)
    assert (chat["tool_choice"], chat["tools"]) == ("required", [CHAT_FUNCTION])


def test_no_tools_no_choice() -> None:
    """Providers refuse a choice without tools; agents send one all the same."""
    chat = _chat(tools=[], include=[], tool_choice="auto", parallel_tool_calls=True)
    assert "tool_choice" not in chat
    assert "parallel_tool_calls" not in chat


@pytest.mark.parametrize(
    "members",
    [
        {"tool_choice": "required"},
        {"tools": [{"type": "web_search"}], "tool_choice": "required"},
        {"tools": [FUNCTION], "tool_choice": {"type": "function", "name": "g"}},
        {"tools": [FUNCTION], "tool_choice": {"type": "custom", "name": "f"}},
        {"tools": [{"type": "web_search"}], "tool_choice": {"type": "web_search"}},
        {"tools": [FUNCTION], "tool_choice": "always"},
        {"tools": [FUNCTION], "tool_choice": {"type": "allowed_tools", "mode": "required", "tools": []}},
    ],
)
def test_choice_that_cannot_be_served(members: dict[str, Any]) -> None:
    """A demand that would silently not be met is refused."""
    with pytest.raises(InvalidRequest) as caught:
        _translate(members)
    assert caught.value.metadata["param"] == "tool_choice"


def test_settings() -> None:
    """Each under its name in chat."""
    schema = {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True}
    chat = _chat(
        temperature=0.2,
        top_p=0.5,
        max_output_tokens=7,
        top_logprobs=2,
        reasoning={"effort": "low", "summary": "auto"},
        text={"format": schema, "verbosity": "low"},
        prompt_cache_key="k",
        safety_identifier="s",
        user="u",
        service_tier="flex",
        metadata={"kept": "here"},
        store=True,
    )
    del chat["messages"], chat["model"], chat["stream_options"]
    assert chat == {
        "temperature": 0.2,
        "top_p": 0.5,
        "max_completion_tokens": 7,
        "logprobs": True,
        "top_logprobs": 2,
        "reasoning_effort": "low",
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": True},
        },
        "verbosity": "low",
        "prompt_cache_key": "k",
        "safety_identifier": "s",
        "user": "u",
        "service_tier": "flex",
    }
    assert _chat(text={"format": {"type": "json_object"}})["response_format"] == {"type": "json_object"}
    assert "response_format" not in _chat(text={"format": {"type": "text"}})
    assert _chat(include=["message.output_text.logprobs"])["logprobs"] is True


def test_unknown_members_pass_through() -> None:
    """A provider may know them; what would change the answer's form or cost behind our back may not pass."""
    chat = _chat(top_k=5, seed=1, n=4, max_tokens=10**6, messages=[], client_metadata={"a": "b"}, stop=None)
    assert (chat["top_k"], chat["seed"]) == (5, 1)
    assert not {"n", "max_tokens", "client_metadata", "stop", "store"} & set(chat)
    assert len(chat["messages"]) == 1
    with pytest.raises(InvalidRequest):
        _translate({"seed": "one"})


def test_bound_of_a_native_request() -> None:
    """What only the provider reads counts: encrypted thoughts by their size, hosted tools without bound."""
    translation = _translate({"tools": [{"type": "web_search"}]})
    bound = bound_of(translation, ["x" * 1000])
    assert bound.ByteSize() > translation.request.ByteSize() + 1000
    assert [tool.type for tool in bound.tools] == ["hosted"]
    assert not translation.request.tools


CODEX = {
    "stream": True,
    "store": False,
    "include": ["reasoning.encrypted_content"],
    "reasoning": {"summary": "auto"},
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "prompt_cache_key": "0199",
    "client_metadata": {"x-codex-installation-id": "1"},
    "tools": [
        {"type": "function", "name": "exec_command", "strict": False, "parameters": {"type": "object"}},
        {"type": "custom", "name": "apply_patch", "format": {"type": "grammar", "syntax": "lark", "definition": "x"}},
        {
            "type": "namespace",
            "name": "multi_agent",
            "description": "d",
            "tools": [{"type": "function", "name": "spawn", "strict": False, "parameters": {"type": "object"}}],
        },
        {"type": "web_search", "external_web_access": False},
    ],
    "input": [
        {"type": "message", "id": "msg_1", "role": "developer", "content": [{"type": "input_text", "text": "rules"}]},
        {"type": "message", "id": "msg_2", "role": "user", "content": [{"type": "input_text", "text": "env"}]},
        {"type": "message", "id": "msg_3", "role": "user", "content": [{"type": "input_text", "text": "do it"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": None},
        {"type": "function_call", "id": "fc_1", "call_id": "a", "name": "exec_command", "arguments": "{}"},
        {"type": "function_call_output", "id": "fco_1", "call_id": "a", "output": "ok"},
    ],
}

OPENCODE = {
    "stream": True,
    "store": False,
    "max_output_tokens": 32000,
    "prompt_cache_key": "ses_1",
    "tools": [FUNCTION],
    "tool_choice": "auto",
    "input": [
        {"role": "developer", "content": "rules"},
        {"role": "user", "content": [{"type": "input_text", "text": "do it"}]},
        {"role": "assistant", "content": [{"type": "output_text", "text": "sure"}], "id": "msg_1"},
        {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}", "id": "fc_1"},
        {"type": "function_call_output", "call_id": "a", "output": "ok"},
    ],
}

AGENTS = {
    "include": [],
    "tools": [],
    "instructions": "You are helpful.",
    "input": [{"content": "do it", "role": "user"}],
}


@pytest.mark.parametrize(
    ("request_value", "roles", "ignored"),
    [
        (CODEX, ["system", "user", "user", "assistant", "tool"], ("tools[3]:web_search",)),
        (OPENCODE, ["system", "user", "assistant", "tool"], ()),
        (AGENTS, ["system", "user"], ()),
    ],
    ids=["codex", "opencode", "agents"],
)
def test_requests_of_real_clients(request_value: dict[str, Any], roles: list[str], ignored: tuple[str, ...]) -> None:
    """What these clients were seen to send is translated, and only what chat cannot do is left out."""
    translation = _translate(request_value)
    assert [message.role for message in translation.request.messages] == roles
    assert translation.ignored == ignored
    assert b"client_metadata" not in chat_request.to_json(translation.request)
