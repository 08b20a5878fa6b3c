"""What Gemini's responses become: calls, signatures, images, log probabilities, refusals, ends and usage."""

import itertools
import json
from typing import Any

import pytest
from fakes.gemini_site import ends_of, request_of, response, text_of
from hypothesis import given
from hypothesis import strategies as st

from quillgate.v1.chat_completion_pb2 import ChatCompletion, ChatCompletionChunk
from quillgate_codec import chat_answer, load_json
from quillgate_core.chat_tally import ChatTally, usage_of
from quillgate_core.counting import Usage, counted_messages
from quillgate_core.errors import ProviderUnavailable
from quillgate_core.providers.gemini_answer import GeminiAnswer, whole_answer
from quillgate_core.providers.gemini_contents import conversation
from quillgate_core.providers.gemini_usage import completion_usage
from quillgate_core.providers.provider_error import ProviderErrors
from quillgate_core.providers.sse import SseParser

ERRORS = ProviderErrors("gemini", None)


def following(*, single_call: bool = False) -> GeminiAnswer:
    """An answer to follow, whose calls without an id are `made-0`, `made-1`."""
    count = itertools.count()
    return GeminiAnswer(ERRORS, single_call=single_call, new_call_id=lambda: f"made-{next(count)}")


def streamed(*values: dict[str, Any], single_call: bool = False) -> list[ChatCompletionChunk]:
    """The chunks of a stream of these responses."""
    answer = following(single_call=single_call)
    return [*map(answer.take, values), *answer.end()]


def whole(value: dict[str, Any], *, single_call: bool = False) -> ChatCompletion:
    """The answer that one response is."""
    answer = following(single_call=single_call)
    return whole_answer([answer.take(value), *answer.end()], ERRORS)


def call(name: str = "f", args: Any = None, **members: Any) -> dict[str, Any]:
    """A functionCall part."""
    return {"functionCall": {"name": name, **({} if args is None else {"args": args})}, **members}


def test_calls_without_an_id_get_one_and_calls_with_one_keep_it() -> None:
    """Clients answer by id; older models give none."""
    chunks = streamed(
        response(call("a", {"x": 1})),
        response({"functionCall": {"id": "theirs", "name": "b", "args": {}}}, call("c"), reason="STOP"),
    )
    calls = [made for chunk in chunks for choice in chunk.choices for made in choice.delta.tool_calls]
    assert [(made.index, made.id, made.type, made.function.name, made.function.arguments) for made in calls] == [
        (0, "made-0", "function", "a", '{"x":1}'),
        (1, "theirs", "function", "b", "{}"),
        (2, "made-1", "function", "c", "{}"),
    ]
    assert ends_of(chunks) == ["tool_calls"]


def test_arguments_keep_their_integers() -> None:
    """A number beyond 64 bits is not rounded."""
    value = load_json(json.dumps(response(call("f", {"n": 2**70, "x": 1.0}), reason="STOP")).encode())
    assert whole(value).choices[0].message.tool_calls[0].function.arguments == '{"n":1180591620717411303424,"x":1.0}'


def test_of_calls_that_must_not_be_parallel_the_first_is_kept() -> None:
    """Gemini cannot be told to call one tool at a time, so the others are not passed on, whenever they come."""
    parts = [call("a", thoughtSignature="s1"), call("b", thoughtSignature="s2")]
    answer = whole(response(*parts, reason="STOP"), single_call=True)
    message = answer.choices[0].message
    assert [made.function.name for made in message.tool_calls] == ["a"]
    assert [detail["data"] for detail in load_json(message.reasoning_details)] == ["s1"]
    chunks = streamed(response(parts[0]), response(parts[1], reason="STOP"), single_call=True)
    assert [made.function.name for chunk in chunks for one in chunk.choices for made in one.delta.tool_calls] == ["a"]
    assert ends_of(chunks) == ["tool_calls"]


@pytest.mark.parametrize("keeps", ["extra_content", "reasoning_details"])
def test_signatures_survive_a_round_through_a_client(keeps: str) -> None:
    """What Gemini signed comes back to it unchanged, whichever of the two places a client sends back."""
    answer = whole(
        response(
            {"text": "Hm.", "thought": True},
            {"text": "Let me look.", "thoughtSignature": "sig-text"},
            call("a", {"x": 1}, thoughtSignature="sig+/a=="),
            call("b"),
            reason="STOP",
        )
    )
    message = json.loads(chat_answer.to_json(answer))["choices"][0]["message"]
    assert message["reasoning_content"] == "Hm."
    assert message["reasoning_details"] == [
        {"type": "reasoning.encrypted", "data": data, "id": call_id, "format": "google-gemini-v1", "index": index}
        for index, (data, call_id) in enumerate([("sig-text", None), ("sig+/a==", "made-0")])
    ]
    assert all("index" not in made for made in message["tool_calls"])
    assert message["tool_calls"][0]["extra_content"] == {"google": {"thought_signature": "sig+/a=="}}
    if keeps == "extra_content":
        del message["reasoning_details"]
    else:
        for made in message["tool_calls"]:
            made.pop("extra_content", None)
    parts = conversation(request_of({"messages": [message]}).messages, needs_signatures=True).contents[0]["parts"]
    assert [part.get("thoughtSignature") for part in parts] == [
        None if keeps == "extra_content" else "sig-text",
        "sig+/a==",
        None,
    ]


def test_a_signature_may_come_in_an_empty_part() -> None:
    """In a stream the signature of a text comes last, in a part that says nothing."""
    chunks = streamed(response({"text": "a"}), response({"text": "", "thoughtSignature": "s"}, reason="STOP"))
    details = [choice.delta.reasoning_details for chunk in chunks for choice in chunk.choices]
    assert [load_json(detail)[0]["data"] for detail in details if detail] == ["s"]
    assert text_of(chunks) == "a"


def test_images_come_as_openrouter_has_them() -> None:
    """A picture that a model draws is a data URL in `images`, numbered over the whole answer."""
    picture = {"inlineData": {"mimeType": "image/png", "data": "AAAA"}}
    sound = {"inlineData": {"mimeType": "audio/L16", "data": "AAAA"}}
    answer = whole(response({"text": "Here:"}, picture, picture, sound, reason="STOP"))
    assert load_json(answer.choices[0].message.extra_json)["images"] == [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}, "index": index} for index in (0, 1)
    ]
    chunks = streamed(response(picture), response(picture, reason="STOP"))
    deltas = [choice.delta for chunk in chunks for choice in chunk.choices if choice.delta.extra_json]
    assert [image["index"] for delta in deltas for image in load_json(delta.extra_json)["images"]] == [0, 1]


def test_log_probabilities_are_translated() -> None:
    """Each token with its bytes and the likeliest others."""
    value = response({"text": "ü"}, reason="STOP")
    value["candidates"][0]["logprobsResult"] = {
        "chosenCandidates": [{"token": "ü", "tokenId": 5, "logProbability": -0.25}],
        "topCandidates": [
            {"candidates": [{"token": "ü", "logProbability": -0.25}, {"token": "u", "logProbability": -2}]}
        ],
    }
    (token,) = whole(value).choices[0].logprobs.content
    assert (token.token, token.logprob, list(token.bytes)) == ("ü", -0.25, [195, 188])
    assert [(top.token, top.logprob, list(top.bytes)) for top in token.top_logprobs] == [
        ("ü", -0.25, [195, 188]),
        ("u", -2.0, [117]),
    ]


@pytest.mark.parametrize(
    ("reason", "end"),
    [
        ("STOP", "stop"),
        ("MAX_TOKENS", "length"),
        ("CONTINUATION", "length"),
        *[
            (reason, "content_filter")
            for reason in ("SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "LANGUAGE")
        ],
        ("IMAGE_SAFETY", "content_filter"),
        ("IMAGE_PROHIBITED_CONTENT", "content_filter"),
    ],
)
def test_reasons_to_end_have_openais_names(reason: str, end: str) -> None:
    """Gemini's own name stands beside, as with OpenRouter."""
    choice = whole(response({"text": "a"}, reason=reason)).choices[0]
    assert (choice.finish_reason, load_json(choice.extra_json)) == (end, {"native_finish_reason": reason})
    assert ends_of(streamed(response({"text": "a"}), response(reason=reason))) == [end]


@pytest.mark.parametrize(
    "reason", ["MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS", "OTHER", "SOMETHING_NEW"]
)
def test_a_model_that_failed_is_no_end(reason: str) -> None:
    """An agent that got `stop` would take a failed call for a finished task."""
    with pytest.raises(ProviderUnavailable) as caught:
        whole(response({"text": "a"}, reason=reason))
    assert caught.value.metadata == {"provider": "gemini"}
    answer = following()
    assert text_of([answer.take(response({"text": "a"}, reason=reason, usageMetadata={"promptTokenCount": 3}))]) == "a"
    with pytest.raises(ProviderUnavailable):
        answer.end()


@pytest.mark.parametrize("reason", [None, "", "FINISH_REASON_UNSPECIFIED", 5])
def test_an_answer_without_a_reason_to_end_is_cut(reason: Any) -> None:
    """No end is made up: a whole answer fails, a stream stays without one."""
    value = response({"text": "a"})
    value["candidates"][0]["finishReason"] = reason
    with pytest.raises(ProviderUnavailable, match="cut its answer short"):
        whole(value)
    assert ends_of(streamed(value)) == []


def test_a_reason_that_is_repeated_ends_the_answer_once_and_last() -> None:
    """Some models tell it in every event, and say more after it."""
    chunks = streamed(*(response({"text": text}, reason="STOP") for text in "abc"))
    assert text_of(chunks) == "abc"
    assert [choice.delta.role for chunk in chunks for choice in chunk.choices] == ["assistant", "", "", ""]
    assert ends_of(chunks) == ["stop"]
    assert chunks[-1].choices[0].finish_reason == "stop"


@pytest.mark.parametrize("reason", ["SAFETY", "OTHER", "SOMETHING_NEW"])
def test_a_blocked_prompt_is_refused_and_not_a_failure(reason: str) -> None:
    """The caller can do something about it, and the prompt was read: usage is kept."""
    value = {"promptFeedback": {"blockReason": reason}, "usageMetadata": {"promptTokenCount": 9}, "responseId": "r"}
    answer = whole(value)
    (choice,) = answer.choices
    assert choice.message.refusal == f"The provider refused to answer this prompt ({reason})."
    assert not choice.message.HasField("content")
    assert (choice.finish_reason, load_json(choice.extra_json)) == ("content_filter", {"native_finish_reason": reason})
    assert usage_of(answer.usage) == Usage(9, 0, 0)
    chunks = streamed(value)
    assert [one.delta.refusal for chunk in chunks for one in chunk.choices if one.delta.refusal]
    assert ends_of(chunks) == ["content_filter"]


def test_a_block_after_the_end_changes_nothing() -> None:
    """What was said and ended stays what it was."""
    answer = whole(response({"text": "a"}, reason="STOP", promptFeedback={"blockReason": "SAFETY"}))
    assert (answer.choices[0].finish_reason, answer.choices[0].message.refusal) == ("stop", "")


def test_an_answer_that_says_nothing_has_empty_content() -> None:
    """Clients read `content` of whatever is neither a call nor a refusal."""
    message = whole(response(reason="STOP")).choices[0].message
    assert message.content.WhichOneof("value") == "text"
    assert not whole(response(call(), reason="STOP")).choices[0].message.HasField("content")


def test_alternatives_are_kept_apart() -> None:
    """Several candidates are several choices, each with its own calls and its own end."""
    both = {
        "candidates": [
            {"index": index, "content": {"parts": [{"text": str(index)}, call()]}, "finishReason": reason}
            for index, reason in ((0, "STOP"), (1, "MAX_TOKENS"))
        ]
    }
    choices = whole(both).choices
    assert [(choice.index, choice.message.content.text, choice.finish_reason) for choice in choices] == [
        (0, "0", "tool_calls"),
        (1, "1", "length"),
    ]
    assert sorted(ends_of(streamed(both))) == ["length", "tool_calls"]


@pytest.mark.parametrize("value", [{}, {"candidates": []}, {"candidates": [5]}, {"usageMetadata": {}}])
def test_a_response_without_candidates_is_no_answer(value: dict[str, Any]) -> None:
    """A whole answer says something; a stream may have an event that does not."""
    with pytest.raises(ProviderUnavailable, match="without candidates"):
        whole(value)
    assert ends_of(streamed(value)) == []


@pytest.mark.parametrize(
    ("metadata", "usage", "messages"),
    [
        ({"promptTokenCount": 10, "candidatesTokenCount": 5}, Usage(10, 0, 5), 1),
        ({"promptTokenCount": 32_000, "candidatesTokenCount": 1}, Usage(32_000, 0, 1), 3),
        (
            {"promptTokenCount": 32_000, "cachedContentTokenCount": 32_000, "candidatesTokenCount": 1},
            Usage(32_000, 32_000, 1),
            2,
        ),
        ({"promptTokenCount": 16_000, "cachedContentTokenCount": 15_999}, Usage(16_000, 15_999, 0), 1),
        (
            {"promptTokenCount": 1, "candidatesTokenCount": 16_000, "thoughtsTokenCount": 16_000},
            Usage(1, 0, 32_000),
            3,
        ),
        ({"promptTokenCount": 16_000, "toolUsePromptTokenCount": 1}, Usage(16_001, 0, 0), 2),
    ],
)
def test_usage_is_counted_in_openais_convention(metadata: dict[str, Any], usage: Usage, messages: int) -> None:
    """Cached tokens are inside the prompt's, thoughts inside the answer's, and tool results are prompt."""
    assert usage_of(completion_usage(metadata)) == usage
    assert counted_messages(usage) == messages


def test_usage_has_its_details() -> None:
    """Thoughts and modalities are told; a prompt's own split may lack some."""
    usage = completion_usage(
        {
            "promptTokenCount": 30,
            "candidatesTokenCount": 4,
            "thoughtsTokenCount": 6,
            "promptTokensDetails": [
                {"modality": "TEXT", "tokenCount": 20},
                {"modality": "AUDIO", "tokenCount": 10},
                {"modality": "SMELL", "tokenCount": 1},
                5,
            ],
        }
    )
    assert (usage.total_tokens, usage.completion_tokens_details.reasoning_tokens) == (40, 6)
    assert (usage.prompt_tokens_details.text_tokens, usage.prompt_tokens_details.audio_tokens) == (20, 10)


def test_the_last_usage_of_a_stream_counts() -> None:
    """Every event has the sums so far: they replace each other and are never added."""
    tally = ChatTally(request_of({}), fallback_id="f", created=1, provider="gemini")
    for count in (1, 5, 9):
        value = response({"text": "a"}, usageMetadata={"promptTokenCount": 7, "candidatesTokenCount": count})
        tally.take(streamed(value))
    assert tally.usage() == (Usage(7, 0, 9), "provider")


EVENTS = [
    response({"text": "Hm, ü", "thought": True}, usageMetadata={"promptTokenCount": 3}),
    response({"text": "日本"}, usageMetadata={"promptTokenCount": 3, "candidatesTokenCount": 2}),
    response(call("f", {"a": "\n"}, thoughtSignature="s"), reason="STOP"),
]
STRAY = b'[{\r\n  "error": {\r\n    "code": 503,\r\n    "message": "overloaded"\r\n  }\r\n}\r\n]'
STREAM = b"".join(b"data: " + json.dumps(event).encode() + b"\r\n\r\n" for event in EVENTS)


@given(st.lists(st.integers(0, len(STREAM + STRAY)), max_size=8).map(sorted))
def test_any_cut_of_a_stream_says_the_same(cuts: list[int]) -> None:
    """Wherever the network cuts it, a stream has the same chunks, and the error that ends it is found."""
    data = STREAM + STRAY
    parser, answer = SseParser(10_000, 10_000), following()
    ends = [*cuts, len(data)]
    events = [event for one, two in zip([0, *cuts], ends, strict=True) for event in parser.feed(data[one:two])]
    events += parser.close()
    assert [*map(answer.take, map(load_json, events)), *answer.end()] == streamed(*EVENTS)
    assert load_json(parser.stray) == [{"error": {"code": 503, "message": "overloaded"}}]
