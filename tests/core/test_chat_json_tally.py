"""A chat answer that stays JSON is followed as one of messages is: the same answers, the same usage, the same ends."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quillgate.v1.chat_completion_pb2 import ChatCompletionRequest, ChatMessage
from quillgate_codec import chat_answer, provider_chat_answer, provider_chat_chunk
from quillgate_core.chat_json_tally import JsonChatTally, WrittenChatTally, clean_answer_value, write_answer
from quillgate_core.chat_tally import ChatTally, clean_answer
from quillgate_core.errors import ProviderUnavailable

IDENTITY: dict[str, Any] = {"fallback_id": "chatcmpl-r", "created": 99, "provider": "up"}

ODD = st.sampled_from([None, "", "x", 0, 1, -1, 2.0, 1.5, 2**70, True, [], {}, ["x"], {"a": None}])
TOKENS = st.one_of(st.integers(-2, 40_000), st.sampled_from([0, 7.0, 7.5, None, "7", 2**70]))
TEXTS = st.sampled_from(["", "a", "Hello", "äß€", "😀" * 3, "x" * 100])


def members(required: dict[str, Any] | None = None, **optional: st.SearchStrategy[Any]) -> Any:
    """Objects of some of the members."""
    return st.fixed_dictionaries(required or {}, optional=optional)


LOGPROBS = st.one_of(
    st.none(), ODD, members(content=st.lists(members(token=TEXTS, logprob=st.floats(-9, 0)), max_size=2))
)
CALLS = st.lists(members(index=st.integers(0, 1), id=TEXTS, function=members(name=TEXTS, arguments=TEXTS)), max_size=2)
DELTA = members(
    role=st.sampled_from(["assistant", "", "tool"]),
    content=st.one_of(TEXTS, st.none()),
    refusal=st.one_of(TEXTS, st.none()),
    reasoning_content=TEXTS,
    tool_calls=CALLS,
    vendor=ODD,
)
CHOICE = members(
    index=st.sampled_from([0, 0, 0, 1, 2.0]),
    delta=st.one_of(DELTA, DELTA, DELTA, ODD),
    finish_reason=st.sampled_from([None, None, "stop", "length", ""]),
    logprobs=LOGPROBS,
    vendor=ODD,
)
USAGE = members(
    prompt_tokens=TOKENS,
    completion_tokens=TOKENS,
    total_tokens=TOKENS,
    prompt_tokens_details=st.one_of(members(cached_tokens=TOKENS, cache_write_tokens=TOKENS, vendor=ODD), ODD),
    cost=st.floats(0, 9),
)
CHUNK = members(
    id=st.one_of(st.sampled_from(["up-1", ""]), ODD),
    object=ODD,
    created=st.one_of(st.just(7), ODD),
    model=TEXTS,
    choices=st.one_of(*[st.lists(CHOICE, max_size=2)] * 6, ODD),
    usage=st.one_of(st.none(), USAGE, ODD),
    error=st.none(),
    system_fingerprint=ODD,
    vendor=ODD,
)
WHOLE_CHOICE = members(
    index=st.sampled_from([0, 1, None]),
    message=st.one_of(DELTA, DELTA, ODD),
    logprobs=LOGPROBS,
    finish_reason=st.sampled_from([None, "stop"]),
    vendor=ODD,
)
ANSWER = members(
    {"choices": st.lists(WHOLE_CHOICE, min_size=1, max_size=2)},
    id=ODD,
    object=ODD,
    created=ODD,
    model=TEXTS,
    usage=st.one_of(USAGE, USAGE, ODD),
    vendor=ODD,
)


def request_of(*, include_usage: bool) -> ChatCompletionRequest:
    """A request that asks for the usage or does not."""
    request = ChatCompletionRequest(model="our/model", messages=[ChatMessage(role="user")])
    if include_usage:
        request.stream_options.include_usage = True
    return request


def fresh(value: Any) -> Any:
    """A copy that shares no part with another one, nor with itself."""
    return json.loads(json.dumps(value))


def plain(value: Any) -> Any:
    """The value without members that say nothing: null members that a provider made up may stay or go."""
    if type(value) is dict:
        return {name: plain(item) for name, item in value.items() if item is not None}
    return [plain(item) for item in value] if type(value) is list else value


def read(written: list[bytes]) -> list[Any]:
    """What a client reads."""
    return [plain(msgspec.json.decode(text)) for text in written]


def whole(tally: JsonChatTally | WrittenChatTally) -> bool:
    """Whether the tally takes the stream for a whole one."""
    try:
        tally.finish()
    except ProviderUnavailable:
        return False
    return True


@given(batches=st.lists(st.lists(CHUNK, max_size=3), max_size=4), include_usage=st.booleans())
def test_both_tallies_say_the_same(batches: list[list[dict[str, Any]]], include_usage: bool) -> None:
    """Whatever a provider sends, the client reads the same, and is charged the same, whichever way it came."""
    request = request_of(include_usage=include_usage)
    as_json = JsonChatTally(request, **IDENTITY)
    as_messages = WrittenChatTally(ChatTally(request, **IDENTITY), include_usage=include_usage)
    for batch in batches:
        chunks = [provider_chat_chunk.from_value(value) for value in fresh(batch)]
        assert read(as_json.take(fresh(batch))) == read(as_messages.take(chunks))
        assert as_json.started == as_messages.started
        assert as_json.upstream_id == as_messages.upstream_id
    (used, source), (expected, expected_source) = as_json.usage(), as_messages.usage()
    assert source == expected_source
    assert (used == expected) if source == "provider" else used.prompt_tokens == expected.prompt_tokens
    assert whole(as_json) == whole(as_messages)
    if source == "provider":
        assert read(as_json.last()) == read(as_messages.last())


@given(answer=ANSWER)
def test_whole_answers_say_the_same(answer: dict[str, Any]) -> None:
    """The same for answers in one piece."""
    answer, request = fresh(answer), request_of(include_usage=False)
    message = provider_chat_answer.from_value(fresh(answer))
    expected, expected_source = clean_answer(message, request, fallback_id="chatcmpl-r", created=99)
    used, source = clean_answer_value(answer, request, fallback_id="chatcmpl-r", created=99)
    assert source == expected_source
    read_json, read_message = read([write_answer(answer)]), read([chat_answer.to_json(message)])
    if source == "provider":
        assert used == expected
    else:
        for each in (*read_json, *read_message):
            del each["usage"]
    assert read_json == read_message


def test_nulls_that_clients_insist_on_are_there() -> None:
    """Client libraries fail without them."""
    tally = JsonChatTally(request_of(include_usage=True), **IDENTITY)
    logprobs = {"content": [{"token": "a", "logprob": -1.0}]}
    (written,) = tally.take([{"choices": [{"delta": {"content": "a"}, "logprobs": logprobs}, {"index": 1}]}])
    value = msgspec.json.decode(written)
    first, second = value["choices"]
    assert first["logprobs"]["content"][0]["top_logprobs"] == []
    assert first["finish_reason"] is None
    assert second == {
        "index": 1, "delta": {"role": "assistant"}, "finish_reason": None, "logprobs": None
    }  # fmt: skip
    assert value["usage"] is None
    answer = {"choices": [{"message": {}}]}
    clean_answer_value(answer, request_of(include_usage=False), fallback_id="chatcmpl-r", created=99)
    message = answer["choices"][0]["message"]
    assert (message["content"], message["refusal"]) == (None, None)  # type: ignore[typeddict-item]


@pytest.mark.parametrize("tokens", [12.0, 12])
def test_tokens_are_written_as_whole_numbers(tokens: float) -> None:
    """Typed clients do not read 12.0 as a number of tokens."""
    tally = JsonChatTally(request_of(include_usage=True), **IDENTITY)
    usage = {"prompt_tokens": tokens, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 4.0}}
    tally.take([{"choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}], "usage": usage}])
    (last,) = tally.last()
    assert b'"prompt_tokens":12,' in last
    assert b'"cached_tokens":4}' in last
