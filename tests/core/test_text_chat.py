"""Text completions in terms of chat and back, without loss of what means the same in both."""

from typing import Any

import pytest
from fakes.fake_provider import chunk, usage_chunk, whole_answer

from quillgate.v1.chat_completion_pb2 import ChatCompletionRequest
from quillgate_codec import chat_request, text_completion_request
from quillgate_core.errors import InvalidRequest
from quillgate_core.text_chat import MAX_CHAT_PROMPTS, answer_of, chat_requests, pieces_of


def _chats(**members: Any) -> list[ChatCompletionRequest]:
    return chat_requests(text_completion_request.from_value({"model": "m", "prompt": "Hi", **members}))


def test_prompt_becomes_the_one_user_message() -> None:
    """Members of the same name pass on, unknown ones too; the limit is left out for whoever sends the chat."""
    (chat,) = _chats(
        n=2, temperature=0.2, stop=["\nuser:"], logit_bias={"5": 1.5}, seed=7, top_k=5, max_tokens=9, stream=True
    )
    assert chat_request.to_value(chat) == {
        "model": "m",
        "messages": [{"role": "user", "content": "Hi"}],
        "n": 2,
        "temperature": 0.2,
        "stop": ["\nuser:"],
        "logit_bias": {"5": 1.5},
        "seed": 7,
        "top_k": 5,
    }


def test_nulls_are_dropped() -> None:
    """A null says nothing in either form."""
    nulls = dict.fromkeys(("seed", "logprobs", "suffix", "best_of", "echo", "max_tokens", "logit_bias", "top_k"))
    (chat,) = _chats(**nulls)
    assert chat_request.to_value(chat) == {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


def test_unknown_member_that_chat_knows() -> None:
    """A member that only chat has a field for gets there, and is refused by its path when it is of the wrong kind."""
    (chat,) = _chats(response_format={"type": "json_object"}, messages=[{"role": "system"}])
    assert chat.response_format.type == "json_object"
    assert [message.role for message in chat.messages] == ["user"]
    with pytest.raises(InvalidRequest) as caught:
        _chats(tools="all")
    assert caught.value.metadata["param"] == "tools"


def test_each_prompt_is_a_chat() -> None:
    """A list of texts becomes as many chats, in order."""
    assert [chat.messages[0].content.text for chat in _chats(prompt=["a", "", "c"])] == ["a", "", "c"]


@pytest.mark.parametrize(
    ("members", "param", "code"),
    [
        ({"suffix": "x"}, "suffix", "unsupported_parameter"),
        ({"logprobs": 0}, "logprobs", "unsupported_parameter"),
        ({"best_of": 2}, "best_of", "unsupported_parameter"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"prompt": [1]}, "prompt", "unsupported_value"),
        ({"prompt": [[1]]}, "prompt", "unsupported_value"),
        ({"prompt": ["x"] * (MAX_CHAT_PROMPTS + 1)}, "prompt", "invalid_value"),
    ],
)
def test_what_chat_cannot_say_is_refused(members: dict[str, Any], param: str, code: str) -> None:
    """It is named rather than left out."""
    with pytest.raises(InvalidRequest) as caught:
        _chats(**members)
    assert caught.value.metadata == {"param": param, "code": code}


def test_harmless_forms_of_the_unsupported() -> None:
    """An empty suffix and as many attempts as choices change nothing, so they are accepted."""
    assert len(_chats(suffix="", n=3, best_of=3, prompt=["x"] * MAX_CHAT_PROMPTS)) == MAX_CHAT_PROMPTS


def test_whole_answer() -> None:
    """Choices are counted on from the prompt's first one; usage and fingerprint are kept, the chat's id is not."""
    chat = whole_answer("Hi", system_fingerprint="fp")
    chat.choices.add(index=1, finish_reason="tool_calls").message.refusal = "No."
    text = answer_of(chat, first_index=4)
    assert [(choice.index, choice.text, choice.finish_reason) for choice in text.choices] == [
        (4, "Hi", "stop"),
        (5, "No.", "stop"),
    ]
    assert (text.id, text.created, text.system_fingerprint, text.usage.prompt_tokens) == ("", 7, "fp", 10)


def test_answer_in_parts() -> None:
    """The parts of a message are joined."""
    chat = whole_answer(
        choices=[{"message": {"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}}]
    )
    assert answer_of(chat, first_index=0).choices[0].text == "ab"


def test_pieces() -> None:
    """Each chunk is a piece; the one with the usage has no choices."""
    first, last, usage = pieces_of(
        [chunk("Hel", index=1), chunk(finish="length", index=1), usage_chunk()], first_index=2
    )
    assert (first.choices[0].index, first.choices[0].text, first.choices[0].HasField("finish_reason")) == (
        3,
        "Hel",
        False,
    )
    assert last.choices[0].finish_reason == "length"
    assert (len(usage.choices), usage.usage.completion_tokens) == (0, 5)
