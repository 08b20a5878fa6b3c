"""The events of a response: their order, their members, and the response that they end in."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from fakes.fake_provider import chunk
from fakes.response_events import as_sent, check_response, check_stream
from hypothesis import given
from hypothesis import strategies as st

from quillgate.v1.chat_completion_pb2 import ChatCompletionChunk, CompletionUsage
from quillgate.v1.response_pb2 import ResponseEvent
from quillgate_codec import provider_chat_answer, response, response_request
from quillgate_core.errors import (
    AllowanceExhausted,
    InvalidRequest,
    KeyInvalid,
    ModelNotAllowed,
    Overloaded,
    ProviderRejected,
    ProviderTimeout,
    ProviderUnavailable,
)
from quillgate_core.response_answer import as_chunk, opened
from quillgate_core.response_stream import ResponseStream
from quillgate_core.response_tools import tool_set

RESPONSE_ID = "resp_" + "0123456789abcdef" * 2
TOOLS = [
    {"type": "function", "name": "f", "parameters": {"type": "object"}},
    {"type": "function", "name": "g", "description": "d", "parameters": {}, "strict": True},
    {"type": "custom", "name": "patch"},
    {"type": "namespace", "name": "mcp", "description": "d", "tools": [{"type": "function", "name": "f"}]},
]


def _stream(**members: Any) -> ResponseStream:
    value = {"model": "a/m", "input": "hi", "tools": TOOLS, **members}
    request = response_request.from_json(msgspec.json.encode(value))
    response = opened(request, response_id=RESPONSE_ID, created_at=7, store=True)
    return ResponseStream(response, tool_set(request.tools).by_chat_name)


def _delta(finish: str | None = None, **delta: Any) -> ChatCompletionChunk:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return chunk(choices=[choice])


def _call(index: int | None = 0, arguments: str = "", **members: Any) -> ChatCompletionChunk:
    function = {"arguments": arguments, **({"name": members.pop("name")} if "name" in members else {})}
    place = {} if index is None else {"index": index}
    return _delta(tool_calls=[{**place, "type": "function", "function": function, **members}])


def _play(chunks: Sequence[ChatCompletionChunk], usage: CompletionUsage | None = None, **members: Any) -> list[Any]:
    """Plays each chunk alone, checks the whole stream, and returns it as a client reads it."""
    stream = _stream(**members)
    events: list[ResponseEvent] = []
    for one in chunks:
        events += stream.take([one])
    stream.close(usage or CompletionUsage(), completed_at=9)
    events += stream.end()
    sent = check_stream(events)
    check_response(sent[-1]["response"])
    return sent


def _kinds(sent: Sequence[Any]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in sent]


def test_text_as_the_contract_lists_it() -> None:
    """A text has exactly the events that OpenAI sends, in its order."""
    sent = _play([_delta(role="assistant", content=""), _delta(content="Hel"), _delta(content="lo"), _delta("stop")])
    assert _kinds(sent) == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    item_id = f"msg_{RESPONSE_ID.removeprefix('resp_')}0000"
    assert sent[0]["response"]["output"] == []
    assert sent[0]["response"]["usage"] is None
    assert sent[2]["item"] == {
        "id": item_id,
        "type": "message",
        "status": "in_progress",
        "role": "assistant",
        "content": [],
    }
    assert sent[3]["part"] == {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    assert sent[4] == {
        "type": "response.output_text.delta",
        "sequence_number": 4,
        "item_id": item_id,
        "output_index": 0,
        "content_index": 0,
        "delta": "Hel",
        "logprobs": [],
    }
    assert sent[6]["text"] == "Hello"
    final = sent[-1]["response"]
    assert (final["status"], final["completed_at"], final["error"]) == ("completed", 9, None)
    assert final["output"][0]["content"][0]["text"] == "Hello"


def test_usage_always_has_its_details() -> None:
    """What the provider did not say is 0; what it said is kept."""
    sent = _play([_delta("stop", content="x")])
    zero = {"input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0}}
    assert sent[-1]["response"]["usage"] == {
        "input_tokens": 0,
        "output_tokens": 0,
        "total_tokens": 0,
        "output_tokens_details": {"reasoning_tokens": 0},
        **zero,
    }
    told = CompletionUsage(prompt_tokens=10, completion_tokens=5)
    told.prompt_tokens_details.cached_tokens = 4
    told.completion_tokens_details.reasoning_tokens = 3
    usage = _play([_delta("stop", content="x")], told)[-1]["response"]["usage"]
    assert (usage["input_tokens"], usage["output_tokens"], usage["total_tokens"]) == (10, 5, 15)
    assert usage["input_tokens_details"]["cached_tokens"] == 4
    assert usage["output_tokens_details"]["reasoning_tokens"] == 3


def test_parallel_calls_whose_arguments_interleave() -> None:
    """Each piece reaches the call of its index, and both calls end whole, with their names."""
    sent = _play(
        [
            _call(0, id="call_a", name="f"),
            _call(1, id="call_b", name="g"),
            _call(0, '{"x"'),
            _call(1, "{"),
            _call(0, ":1}"),
            _call(1, "}"),
            _delta("tool_calls"),
        ]
    )
    done = [event for event in sent if event["type"] == "response.function_call_arguments.done"]
    assert [(event["output_index"], event["name"], event["arguments"]) for event in done] == [
        (0, "f", '{"x":1}'),
        (1, "g", "{}"),
    ]
    calls = sent[-1]["response"]["output"]
    assert [(call["call_id"], call["status"], call["id"][:3]) for call in calls] == [
        ("call_a", "completed", "fc_"),
        ("call_b", "completed", "fc_"),
    ]


@pytest.mark.parametrize(
    "calls",
    [
        [_call(0, "{}", id="call_a", name="f"), _call(0, "[]", id="call_b", name="f")],
        [_call(None, "{}", id="call_a", name="f"), _call(None, "[]", id="call_b", name="f")],
        [_call(None, "{}", name="f"), _call(None, "[]", name="f")],
        [_call(0, "", id="call_a", name="f"), _call(0, "{}"), _call(1, "[", id="call_b", name="f"), _call(1, "]")],
        [_call(0, "{", id="a", name="f"), _call(0, "}", id="a", name="f"), _call(1, "[]", id="b", name="f")],
        [_call(0, "{", id="a"), _call(0, "}", name="f"), _call(1, "[]", id="b", name="f")],
        [_call(0, "{", id="a", name="f"), _call(0, "}", name="f"), _call(1, "[]", id="b", name="f")],
        [_call(0, "{", id="a", name="f"), _call(0, "}"), _call(0, "[", id="b", name="f"), _call(0, "]")],
    ],
    ids=["all-zero", "no-index", "no-id", "usual", "id-repeated", "name-late", "name-repeated", "all-zero-in-pieces"],
)
def test_calls_however_they_are_numbered(calls: Sequence[ChatCompletionChunk]) -> None:
    """Providers number all calls 0, or none, or repeat ids and names; two calls stay two."""
    sent = _play([*calls, _delta("tool_calls")])
    output = sent[-1]["response"]["output"]
    assert [(call["name"], call["arguments"]) for call in output] == [("f", "{}"), ("f", "[]")]
    assert len({call["call_id"] for call in output}) == 2


def test_call_without_arguments() -> None:
    """Some models write nothing for a tool without parameters; clients get what they can read as JSON."""
    sent = _play([_call(0, id="a", name="f"), _delta("tool_calls")])
    assert sent[-1]["response"]["output"][0]["arguments"] == "{}"


def test_text_then_calls() -> None:
    """What is said before calls is a message that ends when the first call begins."""
    sent = _play([_delta(content="Let me see."), _call(0, "{}", id="a", name="f"), _delta("tool_calls")])
    kinds = _kinds(sent)
    assert kinds.index("output_item.done") < kinds.index("function_call_arguments.delta")
    assert [item["type"] for item in sent[-1]["response"]["output"]] == ["message", "function_call"]


def test_custom_tool_gets_its_input() -> None:
    """A custom tool was offered as a function with one string; its call comes back as what it is."""
    sent = _play([_call(0, '{"inp', id="a", name="patch"), _call(0, 'ut":"*** Begin"}'), _delta("tool_calls")])
    (call,) = sent[-1]["response"]["output"]
    assert (call["type"], call["name"], call["input"], call["id"][:4]) == (
        "custom_tool_call",
        "patch",
        "*** Begin",
        "ctc_",
    )
    assert "custom_tool_call_input.done" in _kinds(sent)


def test_tool_of_a_namespace_keeps_it() -> None:
    """The namespace that chat completions do not have is given back beside the name."""
    sent = _play([_call(0, "{}", id="a", name="mcp__f"), _delta("tool_calls")])
    (call,) = sent[-1]["response"]["output"]
    assert (call["name"], call["namespace"]) == ("f", "mcp")


@pytest.mark.parametrize("member", ["reasoning_content", "reasoning"])
@pytest.mark.parametrize("summary", [None, "auto"])
def test_thoughts_come_before_the_message(member: str, summary: str | None) -> None:
    """Thoughts are an item of their own, as a summary for a client that asked for one, which ends when text begins."""
    thoughts = [_delta(**{member: "Hm"}), _delta(**{member: "m."})]
    sent = _play([*thoughts, _delta(content="4"), _delta("stop")], reasoning={"summary": summary})
    reasoning, message = sent[-1]["response"]["output"]
    assert (reasoning["type"], reasoning["id"][:3], message["type"]) == ("reasoning", "rs_", "message")
    if summary:
        assert reasoning["summary"] == [{"type": "summary_text", "text": "Hmm."}]
        assert "reasoning_summary_text.delta" in _kinds(sent)
    else:
        assert reasoning["summary"] == []
        assert reasoning["content"] == [{"type": "reasoning_text", "text": "Hmm."}]
        assert "reasoning_text.delta" in _kinds(sent)
    assert _kinds(sent).index("output_item.done") < _kinds(sent).index("content_part.added")


def test_refusal_is_completed() -> None:
    """A model that declines has answered: the refusal is a part of its own and the response is complete."""
    sent = _play([_delta(refusal="I can"), _delta(refusal="not."), _delta("stop")])
    assert sent[-1]["type"] == "response.completed"
    assert sent[-1]["response"]["output"][0]["content"] == [{"type": "refusal", "refusal": "I cannot."}]
    assert [kind for kind in _kinds(sent) if "refusal" in kind] == ["refusal.delta", "refusal.delta", "refusal.done"]


@pytest.mark.parametrize(("finish", "reason"), [("length", "max_output_tokens"), ("content_filter", "content_filter")])
def test_incomplete(finish: str, reason: str) -> None:
    """An answer that was stopped says why, with its usage, and its last item is incomplete as well."""
    sent = _play([_delta(reasoning_content="Hm"), _delta(content="Hel"), _delta(finish)])
    final = sent[-1]["response"]
    assert sent[-1]["type"] == "response.incomplete"
    assert (final["status"], final["incomplete_details"]) == ("incomplete", {"reason": reason})
    assert [item["status"] for item in final["output"]] == ["completed", "incomplete"]
    assert final["completed_at"] is None
    assert final["usage"] is not None


def test_other_choices_are_left_out() -> None:
    """A response has one answer, whatever a provider sends."""
    sent = _play([_delta(content="a"), chunk("b", index=1), _delta("stop")])
    assert sent[-1]["response"]["output"][0]["content"][0]["text"] == "a"


def test_empty_answer_is_an_empty_message() -> None:
    """A model that says nothing gives a message with an empty text, which clients can show."""
    sent = _play([_delta(role="assistant", content=""), _delta("stop")])
    assert sent[-1]["response"]["output"][0]["content"][0]["text"] == ""


def test_annotations_and_logprobs() -> None:
    """Sources and log probabilities reach the text's part, and events of their own or its deltas."""
    citation = {"type": "url_citation", "url_citation": {"start_index": 0, "end_index": 2, "title": "t", "url": "u"}}
    token = {"token": "Hi", "logprob": -0.5, "bytes": [72, 105], "top_logprobs": []}
    choice = {"index": 0, "delta": {"content": "Hi"}, "logprobs": {"content": [token]}, "finish_reason": None}
    sent = _play([chunk(choices=[choice]), _delta(annotations=[citation]), _delta("stop")])
    flat = {"type": "url_citation", "start_index": 0, "end_index": 2, "title": "t", "url": "u"}
    (part,) = sent[-1]["response"]["output"][0]["content"]
    assert (part["annotations"], part["logprobs"]) == ([flat], [token])
    (added,) = [event for event in sent if event["type"] == "response.output_text.annotation.added"]
    assert (added["annotation"], added["annotation_index"]) == (flat, 0)
    assert next(event for event in sent if event["type"] == "response.output_text.delta")["logprobs"] == [token]


FAILURES = [
    (ProviderUnavailable("cut", provider="p"), "server_error", "server_error", None, "cut"),
    (ProviderTimeout("slow", provider="p"), "server_error", "server_error", None, "slow"),
    (Overloaded("later"), "rate_limit_exceeded", "server_error", None, "later"),
    (ProviderRejected("no", provider="p", code="x", param="y"), "invalid_prompt", "invalid_request_error", "x", "no"),
    (InvalidRequest("no", code="x"), "invalid_prompt", "invalid_request_error", "x", "no"),
    (RuntimeError("secret"), "server_error", "server_error", None, "The server had an error"),
    (KeyInvalid(), "server_error", "invalid_request_error", "invalid_api_key", "Incorrect API key"),
    (ModelNotAllowed("m"), "server_error", "invalid_request_error", "model_not_allowed", "This key may not use"),
]


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure[0]).__name__)
def test_failure_is_told_twice(failure: tuple[Exception, str, str, str | None, str]) -> None:
    """An `error` event, nested and flat, then `response.failed` with what came; a bug's own words are not told."""
    error, shown_code, kind, code, words = failure
    stream = _stream()
    events = stream.take([_delta(reasoning_content="Hm"), _delta(content="Hel"), _call(0, "{", id="a", name="f")])
    events += stream.fail(error, CompletionUsage(prompt_tokens=1))
    *_, told, failed = check_stream(events)
    assert (told["type"], told["code"], told["error"]["code"], told["error"]["type"]) == ("error", code, code, kind)
    assert told["message"] == told["error"]["message"]
    assert told["message"].startswith(words)
    assert "param" in told
    assert "param" in told["error"]
    result = failed["response"]
    assert (result["status"], result["error"]["code"], result["completed_at"]) == ("failed", shown_code, None)
    assert [item["status"] for item in result["output"]] == ["completed", "completed", "incomplete"]
    assert result["output"][2]["arguments"] == "{"
    check_response(result)


def test_spent_allowance_keeps_its_code() -> None:
    """Clients look for this code before they ask again, though it is not in OpenAI's own list."""
    stream = _stream()
    stream.take([_delta(content="x")])
    *_, told, failed = map(as_sent, stream.fail(AllowanceExhausted("spent"), CompletionUsage()))
    assert (told["code"], told["error"]["type"]) == ("insufficient_quota", "insufficient_quota")
    assert failed["response"]["error"]["code"] == "insufficient_quota"


def test_context_that_is_too_long_keeps_its_code() -> None:
    """Clients look for this code before they shorten a conversation, though it is not in OpenAI's own list."""
    stream = _stream()
    stream.take([_delta(content="x")])
    error = ProviderRejected("too long", provider="p", code="context_length_exceeded")
    assert stream.fail(error, CompletionUsage())[-1].response.error.code == "context_length_exceeded"


def test_failure_within_a_text_keeps_it() -> None:
    """The text that came before a failure is in the failed response."""
    stream = _stream()
    events = stream.take([_delta(content="Hel")])
    events += stream.fail(ProviderTimeout("t", provider="p"), CompletionUsage())
    (item,) = check_stream(events)[-1]["response"]["output"]
    assert (item["status"], item["content"][0]["text"]) == ("incomplete", "Hel")


MESSAGES: list[dict[str, Any]] = [
    {"role": "assistant", "content": "Hello"},
    {"role": "assistant", "content": None, "refusal": "No."},
    {"role": "assistant", "content": "4", "reasoning_content": "2+2"},
    {
        "role": "assistant",
        "content": "See:",
        "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}},
            {"id": "b", "type": "function", "function": {"name": "patch", "arguments": '{"input":"i"}'}},
        ],
    },
]


def _in_pieces(message: dict[str, Any], finish: str) -> list[ChatCompletionChunk]:
    chunks = [_delta(role="assistant", content="")]
    for member in ("reasoning_content", "content", "refusal"):
        chunks += [_delta(**{member: letter}) for letter in message.get(member) or ""]
    for index, call in enumerate(message.get("tool_calls", [])):
        chunks.append(_call(index, id=call["id"], name=call["function"]["name"]))
        chunks += [_call(index, letter) for letter in call["function"]["arguments"]]
    return [*chunks, _delta(finish)]


@pytest.mark.parametrize("message", MESSAGES)
@pytest.mark.parametrize("finish", ["stop", "length"])
def test_whole_answer_is_the_same_as_a_streamed_one(message: dict[str, Any], finish: str) -> None:
    """The response does not depend on how the provider was asked."""
    answer = provider_chat_answer.from_value({"choices": [{"message": message, "finish_reason": finish}]})
    whole, streamed = _stream(), _stream()
    whole.take([as_chunk(answer)])
    for one in _in_pieces(message, finish):
        streamed.take([one])
    for stream in (whole, streamed):
        stream.close(CompletionUsage(prompt_tokens=1), completed_at=9)
    assert response.to_value(whole.response) == response.to_value(streamed.response)


def test_every_member_of_a_response() -> None:
    """A response has every member that OpenAI's schema or the Open Responses document lists, with real defaults."""
    final = _play([_delta("stop", content="x")], tools=[{"type": "function", "name": "f"}])[-1]["response"]
    usage, output = final.pop("usage"), final.pop("output")
    assert usage
    assert output
    assert final == {
        "id": RESPONSE_ID,
        "object": "response",
        "created_at": 7,
        "completed_at": 9,
        "status": "completed",
        "incomplete_details": None,
        "model": "a/m",
        "previous_response_id": None,
        "instructions": None,
        "error": None,
        "tools": [{"type": "function", "name": "f", "description": None, "parameters": None, "strict": None}],
        "tool_choice": "auto",
        "truncation": "disabled",
        "parallel_tool_calls": True,
        "text": {"format": {"type": "text"}},
        "top_p": 1,
        "presence_penalty": 0,
        "frequency_penalty": 0,
        "top_logprobs": 0,
        "temperature": 1,
        "reasoning": {"effort": None, "summary": None},
        "max_output_tokens": None,
        "max_tool_calls": None,
        "store": True,
        "background": False,
        "service_tier": "default",
        "metadata": {},
        "safety_identifier": None,
        "prompt_cache_key": None,
        "user": None,
    }


def test_settings_are_echoed() -> None:
    """What the request set, the response says."""
    settings: dict[str, Any] = {
        "instructions": "Be brief.",
        "max_output_tokens": 9,
        "max_tool_calls": 2,
        "temperature": 0.2,
        "top_p": 0.5,
        "top_logprobs": 2,
        "parallel_tool_calls": False,
        "metadata": {"a": "b"},
        "prompt_cache_key": "k",
        "safety_identifier": "s",
        "user": "u",
        "truncation": "auto",
        "tool_choice": {"type": "function", "name": "f"},
        "reasoning": {"effort": "low", "summary": "auto"},
        "text": {"format": {"type": "json_object"}, "verbosity": "low"},
    }
    final = _play([_delta("stop", content="x")], **settings)[-1]["response"]
    assert {name: final[name] for name in settings} == settings


_TEXTS = st.text(max_size=3)
_DELTAS = st.one_of(
    _TEXTS.map(lambda text: _delta(content=text)),
    _TEXTS.map(lambda text: _delta(refusal=text)),
    _TEXTS.map(lambda text: _delta(reasoning_content=text)),
    st.builds(lambda index, text: _call(index, text), st.integers(0, 2), _TEXTS),
    st.builds(
        lambda index, number, name: _call(index, "{}", id=f"call_{number}", name=name),
        st.none() | st.integers(0, 2),
        st.integers(0, 3),
        st.sampled_from(["f", "patch", "mcp__f", "unknown"]),
    ),
)


@given(st.lists(_DELTAS, min_size=1, max_size=12), st.sampled_from(["stop", "length", "fail"]), st.booleans())
def test_any_stream_follows_the_grammar(chunks: list[ChatCompletionChunk], end: str, summary: bool) -> None:
    """Whatever a provider mixes in whatever order, and however it ends, clients get events in their order."""
    stream = _stream(**({"reasoning": {"summary": "auto"}} if summary else {}))
    events = [event for one in chunks for event in stream.take([one])]
    if end == "fail":
        events += stream.fail(ProviderTimeout("t", provider="p"), CompletionUsage())
    else:
        events += stream.take([_delta(end)])
        stream.close(CompletionUsage(), completed_at=9)
        events += stream.end()
    sent = check_stream(events)
    said = "".join(choice.delta.content for one in chunks for choice in one.choices)
    parts = [part for item in sent[-1]["response"]["output"] for part in item.get("content", []) if "text" in part]
    assert "".join(part["text"] for part in parts if part["type"] == "output_text") == said
