"""The diagnostic model answers like a real provider, from the request alone."""

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quillgate.v1.chat_completion_pb2 import ChatCompletion, ChatCompletionChunk
from quillgate_codec import chat_chunk, chat_request
from quillgate_core.errors import InvalidRequest
from quillgate_core.providers.echo import Echo
from quillgate_core.upstream import PreparedChat

ECHO = Echo(clock=lambda: 1_700_000_000.9)
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {}}}
OTHER_TOOL = {"type": "function", "function": {"name": "other"}}
CUSTOM_TOOL = {"type": "custom", "custom": {"name": "free"}}


def user(content: Any) -> list[dict[str, Any]]:
    """A conversation of one user message."""
    return [{"role": "user", "content": content}]


def prepare(
    messages: list[dict[str, Any]], *, stream: bool = False, limit: int | None = None, **members: Any
) -> PreparedChat:
    """A prepared request for the echo model."""
    request = chat_request.from_json(json.dumps({"model": "public", "messages": messages, **members}).encode())
    return ECHO.prepare_chat(request, model="quillgate/echo", stream=stream, max_output_tokens=limit)


async def answer(messages: list[dict[str, Any]], **members: Any) -> ChatCompletion:
    """A whole answer."""
    return await ECHO.create_chat(prepare(messages, **members))


async def stream(messages: list[dict[str, Any]], **members: Any) -> list[ChatCompletionChunk]:
    """A streamed answer."""
    return [chunk async for batch in ECHO.stream_chat(prepare(messages, stream=True, **members)) for chunk in batch]


async def test_answers_with_the_last_user_message() -> None:
    """The text of the last user message comes back as the model asked for, with id, time and usage."""
    got = await answer([*user("first one"), {"role": "assistant", "content": "no"}, *user("How  are you?\n")])
    assert got.id.startswith("chatcmpl-")
    assert (got.object, got.created, got.model) == ("chat.completion", 1_700_000_000, "quillgate/echo")
    (choice,) = got.choices
    assert (choice.index, choice.message.role, choice.finish_reason) == (0, "assistant", "stop")
    assert choice.message.content.text == "How  are you?\n"
    assert (got.usage.prompt_tokens, got.usage.completion_tokens, got.usage.total_tokens) == (7, 4, 11)


async def test_text_parts_are_joined_and_other_parts_ignored() -> None:
    """Of a list of parts the texts are the message."""
    parts = [
        {"type": "text", "text": "What is "},
        {"type": "image_url", "image_url": {"url": "data:,x"}},
        {"type": "text", "text": "this?"},
    ]
    assert (await answer(user(parts))).choices[0].message.content.text == "What is this?"


@pytest.mark.parametrize("messages", [[], [{"role": "system", "content": "be brief"}], user("")])
async def test_without_a_user_message_the_answer_is_empty(messages: list[dict[str, Any]]) -> None:
    """A conversation without anything to echo gets an answer with an empty text."""
    (choice,) = (await answer(messages)).choices
    assert choice.message.content.WhichOneof("value") == "text"
    assert (choice.message.content.text, choice.finish_reason) == ("", "stop")


async def test_streams_like_a_real_provider() -> None:
    """A stream is the role, the words, the reason for the end, and the usage, all with the same head."""
    chunks = await stream(user("Hello big world"))
    deltas = [json.loads(chat_chunk.to_json(chunk))["choices"] for chunk in chunks]
    assert [choice["delta"] for choices in deltas for choice in choices] == [
        {"role": "assistant", "content": ""},
        {"content": "Hello"},
        {"content": " big"},
        {"content": " world"},
        {},
    ]
    reasons = [choice.finish_reason for chunk in chunks for choice in chunk.choices]
    assert reasons == ["", "", "", "", "stop"]
    assert deltas[-1] == []
    assert [chunk.HasField("usage") for chunk in chunks] == [False] * 5 + [True]
    assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens) == (3, 3)
    heads = {(chunk.id, chunk.object, chunk.created, chunk.model) for chunk in chunks}
    assert heads == {(chunks[0].id, "chat.completion.chunk", 1_700_000_000, "quillgate/echo")}


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_the_pieces_give_exactly_the_text(text: str) -> None:
    """Joining the streamed words gives the text, white space and all, and as many as the usage says."""
    chunks = asyncio.run(stream(user(text)))
    words = [choice.delta.content for chunk in chunks for choice in chunk.choices if choice.delta.content]
    assert "".join(words) == text
    assert len(words) == chunks[-1].usage.completion_tokens == chunks[-1].usage.prompt_tokens


@pytest.mark.parametrize(
    ("members", "text", "reason"),
    [
        ({"limit": 2, "max_tokens": 9}, "a b", "length"),
        ({"max_tokens": 2}, "a b", "length"),
        ({"max_tokens": 9, "max_completion_tokens": 1}, "a", "length"),
        ({"limit": 3}, "a b c", "stop"),
        ({"limit": 4}, "a b c", "stop"),
    ],
)
async def test_the_output_limit_is_kept(members: dict[str, Any], text: str, reason: str) -> None:
    """An answer that is cut at the limit says so; the given limit wins over the client's."""
    (choice,) = (await answer(user("a b c"), **members)).choices
    assert (choice.message.content.text, choice.finish_reason) == (text, reason)
    chunks = await stream(user("a b c"), **members)
    assert "".join(choice.delta.content for chunk in chunks for choice in chunk.choices) == text
    assert chunks[-2].choices[0].finish_reason == reason
    assert chunks[-1].usage.completion_tokens == len(text.split())


async def test_several_choices_are_all_given_and_counted() -> None:
    """Each of `n` choices has the whole text, and the usage counts them all."""
    got = await answer(user("a b"), n=3)
    assert [(choice.index, choice.message.content.text) for choice in got.choices] == [
        (0, "a b"),
        (1, "a b"),
        (2, "a b"),
    ]
    assert (got.usage.prompt_tokens, got.usage.completion_tokens) == (2, 6)
    chunks = await stream(user("a b"), n=2)
    indices = [choice.index for chunk in chunks for choice in chunk.choices if choice.finish_reason]
    assert indices == [0, 1]
    assert chunks[-1].usage.completion_tokens == 4


@pytest.mark.parametrize("n", [-1, 0, 129, 10**9])
async def test_too_many_choices_are_refused(n: int) -> None:
    """The number of choices is 1 to 128."""
    with pytest.raises(InvalidRequest) as caught:
        prepare(user("a"), n=n)
    assert caught.value.metadata == {"param": "n", "code": "invalid_value"}


@pytest.mark.parametrize(
    ("choice", "name", "arguments"),
    [
        ("required", "look_up", "{}"),
        ({"type": "function", "function": {"name": "other"}}, "other", "{}"),
        ({"type": "custom", "custom": {"name": "free"}}, "free", ""),
    ],
)
async def test_calls_the_tool_that_must_be_called(choice: Any, name: str, arguments: str) -> None:
    """A required or named tool is called without arguments, whole and streamed."""
    members = {"tools": [TOOL, OTHER_TOOL, CUSTOM_TOOL], "tool_choice": choice}
    got = await answer(user("a b"), **members)
    (call,) = got.choices[0].message.tool_calls
    assert call.id.startswith("call_")
    assert (call.function.name or call.custom.name, call.function.arguments or call.custom.input) == (name, arguments)
    assert (got.choices[0].finish_reason, got.usage.completion_tokens) == ("tool_calls", 1)
    assert not got.choices[0].message.HasField("content")
    _, called, end, _ = await stream(user("a b"), **members)
    (piece,) = called.choices[0].delta.tool_calls
    assert piece.HasField("index")
    assert (piece.index, piece.function.name or piece.custom.name) == (0, name)
    assert end.choices[0].finish_reason == "tool_calls"


async def test_a_tool_result_is_answered_in_text() -> None:
    """Once the tool's result is there it is echoed, even if a tool is still required: a client's loop ends."""
    messages = [
        *user("go"),
        {"role": "assistant", "tool_calls": [{"id": "c", **TOOL, "function": {"name": "look_up", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "c", "content": "sunny"},
    ]
    (choice,) = (await answer(messages, tools=[TOOL], tool_choice="required")).choices
    assert (choice.message.content.text, choice.finish_reason) == ("sunny", "stop")


@pytest.mark.parametrize("choice", ["auto", "none", {"type": "allowed_tools", "allowed_tools": {"mode": "auto"}}])
async def test_tools_that_need_not_be_called_are_not(choice: Any) -> None:
    """Without a required tool the answer is text."""
    assert (await answer(user("a"), tools=[TOOL], tool_choice=choice)).choices[0].message.content.text == "a"


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "missing"}}])
def test_a_tool_that_is_not_given_is_refused(choice: Any) -> None:
    """A choice of a tool that the request does not have is the caller's mistake."""
    with pytest.raises(InvalidRequest) as caught:
        prepare(user("a"), tools=[] if choice == "required" else [TOOL], tool_choice=choice)
    assert caught.value.metadata == {"param": "tool_choice", "code": "invalid_value"}


async def test_preparing_leaves_the_request_as_it_is() -> None:
    """The request still belongs to the caller."""
    request = chat_request.from_json(b'{"model": "public", "messages": []}')
    before = request.SerializeToString()
    ECHO.prepare_chat(request, model="m", stream=True, max_output_tokens=3)
    assert request.SerializeToString() == before


def test_has_a_name() -> None:
    """The provider is called `echo`."""
    assert ECHO.name == "echo"
