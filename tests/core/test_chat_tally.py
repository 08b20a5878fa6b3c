"""Providers misbehave in many ways; what leaves the tally is a clean OpenAI answer, and its usage is known."""

from collections.abc import Iterable
from typing import Any

import pytest
from fakes.fake_provider import USAGE, chunk, usage_chunk, whole_answer

from quillgate.v1.chat_completion_pb2 import ChatCompletionChunk, ChatCompletionRequest, ChatMessage
from quillgate_codec import chat_answer, chat_chunk
from quillgate_core.chat_progress import BYTES_PER_TOKEN
from quillgate_core.chat_tally import ChatTally, clean_answer
from quillgate_core.counting import MAX_TOKENS, Usage
from quillgate_core.errors import ProviderUnavailable

REPORTED = Usage(10, 0, 5)


def _request(*, include_usage: bool = False) -> ChatCompletionRequest:
    request = ChatCompletionRequest(model="our/model", messages=[ChatMessage(role="user")])
    if include_usage:
        request.stream_options.include_usage = True
    return request


def _tally(*, include_usage: bool = False) -> ChatTally:
    return ChatTally(_request(include_usage=include_usage), fallback_id="chatcmpl-r", created=99, provider="up")


def _taken(tally: ChatTally, *chunks: ChatCompletionChunk) -> list[Any]:
    """What a client would see of the chunks, as JSON values."""
    return [chat_chunk.to_value(passed) for passed in tally.take(chunks)]


def _finish_reasons(values: Iterable[Any]) -> list[Any]:
    return [choice["finish_reason"] for value in values for choice in value["choices"]]


def test_a_sane_stream_passes() -> None:
    """Content in order, one identity on every chunk, the model that was asked for, and the provider's usage."""
    tally = _tally()
    values = _taken(tally, chunk("", finish=None), chunk("Hel"), chunk("lo"), chunk(finish="stop"), usage_chunk())
    tally.finish()
    assert [value["choices"][0]["delta"].get("content") for value in values] == ["", "Hel", "lo", None]
    assert {(value["id"], value["created"], value["model"], value["object"]) for value in values} == {
        ("up-1", 7, "our/model", "chat.completion.chunk")
    }
    assert _finish_reasons(values) == [None, None, None, "stop"]
    assert values[0]["choices"][0]["delta"]["role"] == "assistant"
    assert tally.usage() == (REPORTED, "provider")
    assert tally.last() == []


def test_usage_is_for_those_who_asked() -> None:
    """With include_usage one last chunk without choices has the whole usage; no other chunk has any."""
    usage = {**USAGE, "prompt_tokens_details": {"cached_tokens": 4}, "cost": 0.5}
    tally = _tally(include_usage=True)
    values = _taken(tally, chunk("a", usage=usage), chunk(finish="stop", usage=usage), usage_chunk(**usage))
    (last,) = [chat_chunk.to_value(passed) for passed in tally.last()]
    assert not any("usage" in value for value in values)
    assert (last["choices"], last["usage"]) == ([], usage)
    assert (last["id"], last["created"], last["model"]) == ("up-1", 7, "our/model")
    assert tally.usage() == (Usage(10, 4, 5), "provider")


@pytest.mark.parametrize("include_usage", [False, True])
def test_null_usage_is_stripped(include_usage: bool) -> None:
    """Asked for usage, OpenAI puts a null into every chunk, which a client that did not ask must not see."""
    value = {"usage": None, "vendor": {"a": 1}}
    (passed,) = _taken(_tally(include_usage=include_usage), chunk("a", **value))
    assert "usage" not in passed
    assert passed["vendor"] == {"a": 1}


def test_null_error_is_stripped() -> None:
    """The official Go client takes the mere presence of an `error` for a failure."""
    (passed,) = _taken(_tally(), chunk("a", error=None))
    assert "error" not in passed
    (passed,) = _taken(_tally(), chunk("a", error=None, vendor="error"))
    assert passed["vendor"] == "error"


@pytest.mark.parametrize(
    "chunks",
    [
        [chunk("a", usage={**USAGE, "completion_tokens": 1}), chunk("b", finish="stop", usage=USAGE)],
        [chunk("a"), chunk("b", finish="stop", usage=USAGE)],
        [chunk("a", finish="stop"), usage_chunk(prompt_tokens=1, completion_tokens=1), usage_chunk()],
        [usage_chunk(), chunk("a", finish="stop")],
        [chunk("a", usage=USAGE), chunk(finish="stop", usage={"prompt_tokens": 0, "completion_tokens": 0})],
    ],
    ids=["in every chunk", "in the finish chunk", "twice", "first", "then zero"],
)
def test_last_usage_wins_wherever_it_is(chunks: list[ChatCompletionChunk]) -> None:
    """Cumulative reports replace each other; a placeholder of zeros replaces nothing."""
    tally = _tally()
    tally.take(chunks)
    tally.finish()
    assert tally.usage() == (REPORTED, "provider")


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": -1, "completion_tokens": 5},
        {"prompt_tokens": 10, "completion_tokens": MAX_TOKENS + 1},
        {"prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 11}},
        {"prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": -1}},
        {"prompt_tokens": "many"},
        {},
    ],
)
def test_insane_usage_is_not_believed(usage: dict[str, Any]) -> None:
    """Nonsense does not replace an earlier sane report, and without one the usage is an estimate that says so."""
    tally = _tally()
    tally.take([chunk("a", finish="stop"), chunk(choices=[], usage=usage)])
    assert tally.usage()[1] == "estimate"
    tally.take([usage_chunk(), chunk(choices=[], usage=usage)])
    assert tally.usage() == (REPORTED, "provider")


def test_early_usage_grows_with_what_comes_after_it() -> None:
    """A provider that tells the prompt's tokens first and is cut is charged for what it has said since, and says so."""
    tally = _tally()
    tally.take([chunk("", usage={**USAGE, "completion_tokens": 1})])
    assert tally.usage() == (Usage(10, 0, 1), "provider")
    tally.take([chunk("x" * 400)])
    used, source = tally.usage()
    assert (used.prompt_tokens, source) == (10, "estimate")
    assert 101 <= used.completion_tokens <= 110
    tally.take([usage_chunk()])
    assert tally.usage() == (REPORTED, "provider")
    tally.take([chunk("x" * 400), chunk(finish="stop")])
    assert tally.usage() == (REPORTED, "provider")


def test_missing_usage_is_estimated_from_sizes() -> None:
    """The estimate grows with the prompt and with what was sent, and a client that asked gets it."""
    tally = _tally(include_usage=True)
    empty, _ = tally.usage()
    tally.take([chunk("x" * 400), chunk(finish="stop")])
    usage, source = tally.usage()
    assert source == "estimate"
    assert empty.prompt_tokens == usage.prompt_tokens > 0
    assert 400 // BYTES_PER_TOKEN <= usage.completion_tokens <= 440 // BYTES_PER_TOKEN
    (last,) = tally.last()
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (usage.prompt_tokens, usage.completion_tokens)
    assert last.usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_missing_identity_is_made_up() -> None:
    """Without an id and a time of the provider every chunk has ours."""
    tally = _tally()
    values = [
        chat_chunk.to_value(passed)
        for passed in tally.take([ChatCompletionChunk(choices=chunk("a").choices) for _ in range(2)])
    ]
    assert {(value["id"], value["created"], value["object"]) for value in values} == {
        ("chatcmpl-r", 99, "chat.completion.chunk")
    }


def test_changing_identity_is_held() -> None:
    """A provider that makes a new id for every chunk does not confuse clients that join by id."""
    values = _taken(_tally(), chunk("a"), chunk("b", id="up-2", created=8, model="other"))
    assert [(value["id"], value["created"], value["model"]) for value in values] == [("up-1", 7, "our/model")] * 2


def test_role_is_on_the_first_chunk_of_each_choice() -> None:
    """A provider that leaves the role out does not leave clients without one."""
    values = _taken(_tally(), chunk("a"), chunk("b", index=1), chunk("c"))
    assert [value["choices"][0]["delta"].get("role") for value in values] == ["assistant", "assistant", None]


def test_missing_delta_and_index_are_made_up() -> None:
    """Clients read `delta` and `index` of every choice without asking whether they are there."""
    (value,) = _taken(_tally(), chunk(choices=[{"finish_reason": "stop"}]))
    (choice,) = value["choices"]
    assert (choice["index"], choice["delta"]["role"], choice["finish_reason"]) == (0, "assistant", "stop")


def test_empty_finish_reason_is_none() -> None:
    """Some providers send "" until the end: it is no reason, so a stream that stops there is cut."""
    tally = _tally()
    values = _taken(tally, chunk("a", finish=""), chunk("b", finish=""))
    assert _finish_reasons(values) == [None, None]
    with pytest.raises(ProviderUnavailable):
        tally.finish()


def test_reason_is_told_once_for_each_choice() -> None:
    """A provider that repeats the reason, in every chunk or in one more, loses no text and repeats no end."""
    tally = _tally()
    values = _taken(
        tally,
        chunk("a", finish="stop"),
        chunk("b", finish="stop"),
        chunk("", finish="stop", usage=USAGE),
        chunk(choices=[{"index": 0, "delta": {"role": "assistant", "content": ""}}], usage=USAGE),
    )
    tally.finish()
    assert _finish_reasons(values) == ["stop", None]
    assert [value["choices"][0]["delta"]["content"] for value in values] == ["a", "b"]
    assert tally.usage() == (REPORTED, "provider")


def test_choice_that_ended_does_not_silence_the_others() -> None:
    """In a chunk of several choices only the one that has ended and says nothing is left out."""
    tally = _tally()
    tally.take([chunk("a", finish="stop")])
    both = [{"index": 0, "delta": {}}, {"index": 1, "delta": {"content": "b"}, "finish_reason": "length"}]
    (value,) = _taken(tally, chunk(choices=both))
    assert [choice["index"] for choice in value["choices"]] == [1]
    tally.finish()


@pytest.mark.parametrize(
    "chunks",
    [
        [],
        [usage_chunk()],
        [chunk("a")],
        [chunk("a"), usage_chunk()],
        [chunk("a", finish="stop"), chunk("b", index=1)],
    ],
    ids=["nothing", "only usage", "no end", "usage but no end", "one of two choices"],
)
def test_cut_stream_is_no_answer(chunks: list[ChatCompletionChunk]) -> None:
    """A stream that ends before every choice has its reason is the provider's failure, by name."""
    tally = _tally()
    tally.take(chunks)
    with pytest.raises(ProviderUnavailable) as caught:
        tally.finish()
    assert caught.value.metadata == {"provider": "up"}


def test_several_choices_end_each_on_their_own() -> None:
    """With n choices, interleaved, the answer is whole when the last of them has ended."""
    tally = _tally()
    tally.take([chunk("a"), chunk("b", index=1), chunk(finish="stop"), chunk(finish="length", index=1)])
    tally.finish()


def test_tally_has_started_once_something_was_passed_on() -> None:
    """Usage alone is no output; the first choice is."""
    tally = _tally()
    tally.take([usage_chunk()])
    assert not tally.started
    tally.take([chunk("")])
    assert tally.started


def _cleaned(**members: Any) -> tuple[Any, Usage, str]:
    answer = whole_answer(**members)
    usage, source = clean_answer(answer, _request(), fallback_id="chatcmpl-r", created=99)
    return chat_answer.to_value(answer), usage, source


def test_whole_answer_is_cleaned() -> None:
    """The model is the one that was asked for; everything else is the provider's."""
    value, usage, source = _cleaned(vendor={"a": [1]})
    assert (value["id"], value["created"], value["model"], value["object"]) == (
        "up-1",
        7,
        "our/model",
        "chat.completion",
    )
    assert value["vendor"] == {"a": [1]}
    assert (usage, source) == (REPORTED, "provider")


def test_whole_answer_without_identity_gets_one() -> None:
    """Missing id, time, object, index and role are made up."""
    value, _, _ = _cleaned(id=None, created=None, object=None, choices=[{"message": {"content": "a"}}, {"message": {}}])
    assert (value["id"], value["created"], value["object"]) == ("chatcmpl-r", 99, "chat.completion")
    assert [choice["index"] for choice in value["choices"]] == [0, 1]
    assert [choice["message"]["role"] for choice in value["choices"]] == ["assistant", "assistant"]


@pytest.mark.parametrize(
    "usage",
    [None, {}, {"prompt_tokens": 0, "completion_tokens": 0}, {"prompt_tokens": -5, "completion_tokens": 1}],
)
def test_whole_answer_always_has_a_sane_usage(usage: dict[str, Any] | None) -> None:
    """What the client sees is what is charged, also when it is an estimate."""
    value, used, source = _cleaned(usage=usage, content="x" * 400)
    assert source == "estimate"
    assert (value["usage"]["prompt_tokens"], value["usage"]["completion_tokens"]) == (
        used.prompt_tokens,
        used.completion_tokens,
    )
    assert used.completion_tokens >= 100
