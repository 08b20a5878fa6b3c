"""What an answer of Anthropic's becomes, whole and streamed alike: text, thoughts, calls, sources, ends and usage."""

import json
from typing import Any

import pytest
from conformance.vendor_anthropic import frame
from hypothesis import given
from hypothesis import strategies as st

from quillgate.v1.chat_completion_pb2 import ChatCompletionChunk
from quillgate_codec import JsonError, chat_answer, provider_chat_answer, provider_chat_chunk
from quillgate_core.chat_tally import usage_of as metered
from quillgate_core.counting import Usage, counted_messages
from quillgate_core.errors import ProviderUnavailable
from quillgate_core.providers.anthropic_answer import REFUSED, answer_of
from quillgate_core.providers.anthropic_stream import AnthropicStream
from quillgate_core.providers.anthropic_wire import decode_message
from quillgate_core.providers.provider_error import ProviderErrors
from quillgate_core.providers.sse import SseParser

TEXT = {"type": "text", "text": "Hi."}
USE = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"b": 12345678901234567890123, "a": "é"}}
SOURCE = {
    "type": "web_search_result_location",
    "url": "https://example.com",
    "title": "T",
    "cited_text": "x",
    "encrypted_index": "y",
}
START = {"type": "message_start", "message": {"id": "msg_1", "model": "m", "content": []}}


def whole(blocks: list[dict[str, Any]], stop_reason: str = "end_turn", **members: Any) -> dict[str, Any]:
    """The first choice of a whole answer, as a client gets it."""
    message = {"id": "msg_1", "model": "m", "content": blocks, "stop_reason": stop_reason, **members}
    answer = answer_of(decode_message(json.dumps(message).encode()))
    value: dict[str, Any] = chat_answer.to_value(answer)["choices"][0]
    return value


def chunks_of(*events: dict[str, Any]) -> list[ChatCompletionChunk]:
    """The chunks of a stream."""
    stream = AnthropicStream(ProviderErrors("anthropic", None))
    chunks: list[ChatCompletionChunk] = []
    for event in events:
        stream.decode(json.dumps(event).encode(), chunks)
    return chunks


def streamed(*events: dict[str, Any]) -> list[Any]:
    """What the events after the first add, chunk by chunk; the first says the role, and only the first."""
    values = [provider_chat_chunk.to_value(chunk) for chunk in chunks_of(START, *events)]
    deltas = [value["choices"][0]["delta"] for value in values if value.get("choices")]
    assert [delta.pop("role", "") for delta in deltas] == ["assistant", *[""] * (len(deltas) - 1)][: len(deltas)]
    return deltas


def began(block: dict[str, Any], index: int = 0) -> dict[str, Any]:
    """The event of a block that begins."""
    return {"type": "content_block_start", "index": index, "content_block": block}


def added(index: int = 0, **delta: Any) -> dict[str, Any]:
    """The event of a block that grows."""
    return {"type": "content_block_delta", "index": index, "delta": delta}


def ended(index: int = 0) -> dict[str, Any]:
    """The event of a block that ends."""
    return {"type": "content_block_stop", "index": index}


def stopped(stop_reason: str, **members: Any) -> list[dict[str, Any]]:
    """The events that end an answer."""
    return [{"type": "message_delta", "delta": {"stop_reason": stop_reason, **members}}, {"type": "message_stop"}]


@pytest.mark.parametrize(
    ("stop_reason", "finish_reason"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("pause_turn", "length"),
        ("tool_use", "tool_calls"),
        ("refusal", "content_filter"),
        ("something_new", "stop"),
    ],
)
def test_ends_have_openais_names(stop_reason: str, finish_reason: str) -> None:
    """Each stop reason has one of OpenAI's, whole and streamed; a new one is an end like any other."""
    assert whole([TEXT], stop_reason)["finish_reason"] == finish_reason
    last = chunks_of(START, *stopped(stop_reason))[-1]
    assert last.choices[0].finish_reason == finish_reason


def test_blocks_become_one_message() -> None:
    """Texts are joined, calls are JSON text in the model's order and digits, Anthropic's own tools are left out."""
    own = [
        {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "x"}},
        {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []},
    ]
    message = whole([TEXT, *own, {**TEXT, "citations": [SOURCE, {"type": "char_location"}]}, USE], "tool_use")[
        "message"
    ]
    citation = {"start_index": 3, "end_index": 6, "title": "T", "url": "https://example.com"}
    arguments = '{"b":12345678901234567890123,"a":"é"}'
    assert message == {
        "role": "assistant",
        "content": "Hi.Hi.",
        "refusal": None,
        "tool_calls": [{"id": "toolu_1", "type": "function", "function": {"name": "f", "arguments": arguments}}],
        "annotations": [{"type": "url_citation", "url_citation": citation}],
    }


@pytest.mark.parametrize(
    ("blocks", "stop_reason", "content"), [([], "end_turn", ""), ([USE], "tool_use", None), ([], "refusal", None)]
)
def test_content_is_null_where_openais_is(blocks: list[Any], stop_reason: str, content: str | None) -> None:
    """An answer of calls or of a refusal has no content; one without words has an empty one."""
    assert whole(blocks, stop_reason)["message"]["content"] == content


@pytest.mark.parametrize(
    ("blocks", "details", "refusal"),
    [
        ([], {"explanation": "Blocked."}, "Blocked."),
        ([TEXT], {"explanation": "Blocked."}, "Blocked."),
        ([], {"explanation": None}, REFUSED),
        ([], None, REFUSED),
        ([TEXT], None, None),
    ],
)
def test_a_refusal_says_why(blocks: list[Any], details: Any, refusal: str | None) -> None:
    """The explanation is the refusal; without one and without a text, a client is still told something."""
    assert whole(blocks, "refusal", stop_details=details)["message"]["refusal"] == refusal
    events = [event for block in blocks for event in (began(block), ended())]
    last = streamed(*events, *stopped("refusal", stop_details=details))[-1]
    assert last.get("refusal") == refusal


def test_calls_are_counted_for_themselves() -> None:
    """A call's index is its own and not its block's; its head comes first, then its arguments as they arrive."""
    deltas = streamed(
        began({"type": "text", "text": ""}),
        added(type="text_delta", text="Hi."),
        ended(),
        began({"type": "tool_use", "id": "a", "name": "f", "input": {}}, 1),
        added(1, type="input_json_delta", partial_json=""),
        added(1, type="input_json_delta", partial_json='{"a":'),
        added(1, type="input_json_delta", partial_json=" 1}"),
        ended(1),
        began({"type": "tool_use", "id": "b", "name": "g", "input": {}}, 2),
        added(2, type="input_json_delta", partial_json=""),
        ended(2),
    )
    heads = [{"name": "f", "arguments": ""}, {"name": "g", "arguments": ""}]
    assert deltas == [
        {"content": "Hi."},
        {"tool_calls": [{"index": 0, "id": "a", "type": "function", "function": heads[0]}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"a":'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": " 1}"}}]},
        {"tool_calls": [{"index": 1, "id": "b", "type": "function", "function": heads[1]}]},
        {"tool_calls": [{"index": 1, "function": {"arguments": "{}"}}]},
    ]


def test_a_thought_is_told_as_it_comes_and_kept_whole() -> None:
    """Pieces go to `reasoning_content`; the signed whole, to be sent back, comes once, when it ends."""
    deltas = streamed(
        began({"type": "thinking", "thinking": "", "signature": ""}),
        added(type="thinking_delta", thinking="Well, "),
        added(type="thinking_delta", thinking="then."),
        added(type="signature_delta", signature="c2ln"),
        ended(),
        began({"type": "redacted_thinking", "data": "ZGF0YQ=="}, 1),
        ended(1),
    )
    place = {"id": "at-0-0", "format": "anthropic-claude-v1"}
    thought = {"type": "reasoning.text", "text": "Well, then.", "signature": "c2ln", **place, "index": 0}
    hidden = {"type": "reasoning.encrypted", "data": "ZGF0YQ==", **place, "index": 1}
    assert deltas == [
        {"reasoning_content": "Well, "},
        {"reasoning_content": "then."},
        {"reasoning_details": [thought]},
        {"reasoning_details": [hidden]},
    ]


def test_sources_are_told_with_their_place() -> None:
    """A source on the web is an annotation of the text that came before it in its block."""
    deltas = streamed(
        began({"type": "text", "text": "", "citations": []}),
        added(type="text_delta", text="Hi."),
        added(type="citations_delta", citation=SOURCE),
        added(type="citations_delta", citation={"type": "page_location"}),
        ended(),
    )
    citation = {"start_index": 0, "end_index": 3, "title": "T", "url": "https://example.com"}
    assert deltas[1:] == [{"annotations": [{"type": "url_citation", "url_citation": citation}]}]


@pytest.mark.parametrize(
    "event",
    [
        {"type": "ping"},
        {"type": "event_of_tomorrow", "payload": {"a": 1}},
        ended(7),
        began({"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}),
        began({"type": "block_of_tomorrow", "text": None}),
        {"type": "message_delta", "delta": {}},
    ],
)
def test_unknown_events_say_nothing(event: dict[str, Any]) -> None:
    """Anthropic adds events and blocks as it likes."""
    assert streamed(event) == []


def test_unknown_growth_says_nothing() -> None:
    """A block may grow in ways that nobody knows yet."""
    assert streamed(began({"type": "text", "text": ""}), added(type="delta_of_tomorrow", text=None), ended()) == []


def test_the_input_of_anthropics_own_tools_is_no_call() -> None:
    """What a search is asked for is streamed like arguments, but nobody here called it."""
    search = {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}
    assert streamed(began(search), added(type="input_json_delta", partial_json='{"q":'), ended()) == []


@pytest.mark.parametrize(
    "data",
    [
        b"{",
        b"[]",
        b'"x"',
        b"{}",
        b'{"type": 5}',
        b'{"type": "message_start"}',
        b'{"type": "content_block_start"}',
        b'{"type": "content_block_start", "content_block": {}}',
        b'{"type": "content_block_delta", "index": 9, "delta": {"type": "text_delta", "text": "a"}}',
        b'{"type": "content_block_delta", "delta": {"type": "text_delta", "text": 5}}',
        b'{"type": "message_start", "message": {"usage": {"input_tokens": "5"}}}',
        b"\xff",
        b"[" * 10_000,
    ],
)
def test_events_that_cannot_be_read_are_told_as_such(data: bytes) -> None:
    """Nonsense is no event, whatever its form."""
    with pytest.raises(JsonError):
        AnthropicStream(ProviderErrors("anthropic", None)).decode(data, [])


def test_an_error_event_without_words_is_still_one() -> None:
    """An error that says nothing ends the stream all the same."""
    with pytest.raises(ProviderUnavailable):
        chunks_of({"type": "error"})


def test_usage_replaces_what_was_told_before() -> None:
    """Counts are cumulative: later ones replace earlier ones, and what the last event leaves out stays."""
    early = {
        "input_tokens": 43,
        "cache_read_input_tokens": 1_000,
        "cache_creation_input_tokens": 10,
        "output_tokens": 1,
    }
    start = {"type": "message_start", "message": {"id": "m", "content": [], "usage": early}}
    changes = [{"input_tokens": 61, "output_tokens": 2}, {"output_tokens": 9, "cache_read_input_tokens": None}]
    chunks = chunks_of(start, *({"type": "message_delta", "delta": {}, "usage": usage} for usage in changes))
    assert [metered(chunk.usage) for chunk in chunks] == [
        Usage(1_053, 1_000, 1, cache_write_tokens=10),
        Usage(1_071, 1_000, 2, cache_write_tokens=10),
        Usage(1_071, 1_000, 9, cache_write_tokens=10),
    ]
    assert chunks[-1].usage.prompt_tokens_details.cache_write_tokens == 10
    assert chunks[-1].usage.total_tokens == 1_080


@pytest.mark.parametrize(
    ("usage", "messages"),
    [
        ({"input_tokens": 10, "output_tokens": 5}, 1),
        ({"input_tokens": 16_000, "output_tokens": 0}, 1),
        ({"input_tokens": 16_000, "output_tokens": 1}, 2),
        ({"input_tokens": 0, "cache_read_input_tokens": 64_000, "output_tokens": 1}, 3),
        ({"input_tokens": 0, "cache_creation_input_tokens": 64_000, "output_tokens": 1}, 5),
        ({"input_tokens": 1, "cache_read_input_tokens": 31_999, "output_tokens": 0}, 2),
        ({"input_tokens": 2, "cache_read_input_tokens": 31_998, "output_tokens": 1}, 2),
    ],
)
def test_golden_usages_count_messages(usage: dict[str, int], messages: int) -> None:
    """Tokens read from the cache count half, and those written to it count whole."""
    message = {"content": [TEXT], "stop_reason": "end_turn", "usage": usage}
    answer = answer_of(decode_message(json.dumps(message).encode()))
    assert counted_messages(metered(answer.usage)) == messages


def test_thoughts_are_among_the_tokens_of_the_answer() -> None:
    """Anthropic's count of thinking tokens is OpenAI's of reasoning tokens, and senseless counts fit after all."""
    usage = {"input_tokens": 10**30, "output_tokens": 373, "output_tokens_details": {"thinking_tokens": 62}}
    message = {"content": [TEXT], "stop_reason": "end_turn", "usage": usage}
    made = answer_of(decode_message(json.dumps(message).encode())).usage
    assert (made.completion_tokens, made.completion_tokens_details.reasoning_tokens) == (373, 62)
    assert made.prompt_tokens == 2**53


BLOCKS = st.lists(
    st.one_of(
        st.builds(lambda text: {"type": "text", "text": text}, st.text("ab🦜", max_size=4)),
        st.builds(lambda text: {"type": "thinking", "thinking": text, "signature": "c2ln"}, st.text("xy", max_size=4)),
        st.just({"type": "redacted_thinking", "data": "ZGF0YQ=="}),
        st.builds(lambda value: {**USE, "input": value}, st.sampled_from([{}, {"a": "é"}])),
    ),
    max_size=5,
)


def frames_of(blocks: list[dict[str, Any]]) -> bytes:
    """The stream of the blocks, each growing by single characters."""
    frames = [frame(START), frame({"type": "ping"})]
    for index, block in enumerate(blocks):
        empty = {name: "" if name in ("text", "thinking", "signature") else item for name, item in block.items()}
        frames.append(frame(began({**empty, "input": {}} if block["type"] == "tool_use" else empty, index)))
        frames += [frame(added(index, type="text_delta", text=character)) for character in block.get("text", "")]
        frames += [frame(added(index, type="thinking_delta", thinking=part)) for part in block.get("thinking", "")]
        if "signature" in block:
            frames.append(frame(added(index, type="signature_delta", signature=block["signature"])))
        if "input" in block:
            text = json.dumps(block["input"], ensure_ascii=False, separators=(",", ":"))
            frames += [frame(added(index, type="input_json_delta", partial_json=character)) for character in text]
        frames.append(frame(ended(index)))
    return b"".join([*frames, *(frame(event) for event in stopped("tool_use"))])


def joined(chunks: list[ChatCompletionChunk]) -> dict[str, Any]:
    """The message that a client makes of the chunks."""
    message: dict[str, Any] = {"content": "", "reasoning_content": "", "reasoning_details": [], "tool_calls": {}}
    for delta in (choice.delta for chunk in chunks for choice in chunk.choices):
        message["content"] += delta.content
        message["reasoning_content"] += delta.reasoning_content
        message["reasoning_details"] += json.loads(delta.reasoning_details or b"[]")
        for piece in delta.tool_calls:
            call = message["tool_calls"].setdefault(piece.index, [piece.id, piece.function.name, ""])
            call[2] += piece.function.arguments
    return message


@given(BLOCKS, st.data())
def test_a_stream_says_what_the_whole_answer_says(blocks: list[dict[str, Any]], data: st.DataObject) -> None:
    """However the bytes of a stream are cut, its chunks add up to the message that the whole answer would have been."""
    sent = frames_of(blocks)
    places = sorted(data.draw(st.lists(st.integers(0, len(sent)), max_size=6)))
    stream, parser = AnthropicStream(ProviderErrors("anthropic", None)), SseParser(10**6, 10**6)
    chunks: list[ChatCompletionChunk] = []
    for start, end in zip([0, *places], [*places, len(sent)], strict=True):
        for event in parser.feed(sent[start:end]) if start < end else ():
            stream.decode(event, chunks)
    message = {"content": blocks, "stop_reason": "tool_use"}
    answer = provider_chat_answer.to_value(answer_of(decode_message(json.dumps(message).encode())))
    expected = answer["choices"][0]["message"]
    calls = [[call["id"], *call["function"].values()] for call in expected.get("tool_calls", [])]
    assert joined(chunks) == {
        "content": expected.get("content") or "",
        "reasoning_content": expected.get("reasoning_content", ""),
        "reasoning_details": expected.get("reasoning_details", []),
        "tool_calls": dict(enumerate(calls)),
    }
    assert [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason] == [
        "tool_calls"
    ]
