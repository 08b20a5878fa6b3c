"""Chunks that differ in their words alone: they are passed on as if each had been decoded, and only they are."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quillgate.v1.chat_completion_pb2 import ChatCompletionRequest, ChatMessage
from quillgate_codec import load_json
from quillgate_core.chat_json_tally import JsonChatTally
from quillgate_core.providers.dialect_answer import clean_value
from quillgate_core.providers.provider_error import ProviderErrors
from quillgate_core.providers.same_frame import MAX_FRAME_BYTES, MAX_MISSES, SameFrame

ERRORS = ProviderErrors("vendor", None)
WORDS = st.one_of(
    st.sampled_from(["a", " hello", "", "é", "\u2028", "\x7f", 'say "x"', "back\\slash", "line\nbreak", "🙂", '":"']),
    st.text(max_size=8),
)
DELTA = st.fixed_dictionaries(
    {"content": st.one_of(WORDS, WORDS, WORDS, st.none())},
    optional={
        "role": st.sampled_from(["assistant", "", None]),
        "reasoning": st.sampled_from([None, None, "hm"]),
        "tool_calls": st.sampled_from([None, [{"function": {"name": "f", "arguments": "{}"}}]]),
    },
)
CHUNK = st.fixed_dictionaries(
    {
        "id": st.sampled_from(["up-1", "up-1", "up-1", "up-2"]),
        "choices": st.lists(
            st.fixed_dictionaries(
                {"index": st.sampled_from([0, 0, 0, 1]), "delta": DELTA},
                optional={
                    "finish_reason": st.sampled_from([None, None, None, "", "stop"]),
                    "logprobs": st.sampled_from([None, None, {"content": []}]),
                },
            ),
            min_size=1,
            max_size=2,
        ),
    },
    optional={
        "created": st.sampled_from([7, 7, 8]),
        "usage": st.sampled_from([None, None, {"prompt_tokens": 3, "completion_tokens": 1}]),
        "vendor": st.sampled_from([None, {"content": "x"}, {"content": ""}]),
    },
)
REPEATS = st.lists(WORDS, max_size=4)


class Reader:
    """Reads a stream as the provider's adapter and the tally do; `frame` is None for one that decodes every chunk."""

    def __init__(self, frame: SameFrame | None) -> None:
        request = ChatCompletionRequest(model="our/model", messages=[ChatMessage(role="user")])
        self.frame = frame
        self.tally = JsonChatTally(request, fallback_id="chatcmpl-r", created=99, provider="vendor")
        self.passed_over = 0

    def read(self, data: bytes) -> list[bytes]:
        """What is written of one chunk."""
        words = self.frame.words(data) if self.frame is not None else None
        if words is not None:
            self.passed_over += 1
            return self.tally.take([words])
        value = clean_value(load_json(data), ERRORS)
        if self.frame is not None:
            self.frame.learn(data, value)
        return self.tally.take([value])


def written(chunk: dict[str, Any], *, raw: bool = True, spaces: bool = False) -> bytes:
    """A chunk as a server writes it, with or without escapes for what is no ASCII."""
    return json.dumps(chunk, ensure_ascii=not raw, separators=None if spaces else (",", ":")).encode(
        "utf-8", "surrogatepass"
    )


def plain(words: str, **members: Any) -> dict[str, Any]:
    """A chunk that says words and nothing else."""
    choice = {"index": 0, "delta": {"content": words}, "logprobs": None, "finish_reason": None}
    return {"id": "up-1", "created": 7, "model": "m", "choices": [choice], **members}


@given(stream=st.lists(st.tuples(CHUNK, REPEATS), max_size=5), raw=st.booleans(), spaces=st.booleans())
def test_nobody_can_tell_that_chunks_were_not_decoded(
    stream: list[tuple[dict[str, Any], list[str]]], raw: bool, spaces: bool
) -> None:
    """Whatever the chunks hold, the same bytes are written and the same is charged."""
    quick, thorough = Reader(SameFrame()), Reader(None)
    for chunk, repeats in stream:
        for words in [None, *repeats]:
            if words is not None:
                chunk["choices"][0]["delta"]["content"] = words
            try:
                data = written(chunk, raw=raw, spaces=spaces)
                load_json(data)
            except Exception:
                continue
            assert quick.read(data) == thorough.read(data)
            assert quick.tally.usage() == thorough.tally.usage()


@pytest.mark.parametrize("role", [{}, {"role": "assistant"}])
def test_the_usual_stream_is_decoded_once(role: dict[str, str]) -> None:
    """All but the first chunk of a text is passed over, whether the role is said again or not."""
    reader = Reader(SameFrame())
    for words in ["One", " two", " thrée", ", four", " 🙂", "\n", " five"]:
        chunk = plain(words)
        chunk["choices"][0]["delta"].update(role)
        (text,) = reader.read(written(chunk))
        assert json.loads(text)["choices"][0]["delta"]["content"] == words
    assert reader.passed_over == 6


@pytest.mark.parametrize(
    "words", [b"", b'"', b"\\", b"\\u00e9", b"\\/", b"\n", b"\x00", b"\xff", b"\xed\xa0\x80", b'","x":"']
)
def test_what_is_no_plain_text_is_decoded(words: bytes) -> None:
    """An empty text, ends, long escapes, control characters and what is no UTF-8."""
    frame = SameFrame()
    data = written(plain("MARK"))
    frame.learn(data, load_json(data))
    assert frame.words(data.replace(b"MARK", b"more")) == b"more"
    assert frame.words(data.replace(b"MARK", words)) is None


def test_a_frame_that_overlaps_itself_is_no_chunk() -> None:
    """What begins and ends as a chunk does and is shorter than one holds no words."""
    frame = SameFrame()
    data = b'{"choices":[{"delta":{"content":"ab"}}]}'
    frame.learn(data, load_json(data))
    assert frame.words(b'{"choices":[{"delta":{"content":"}}]}') is None


@pytest.mark.parametrize(
    "chunk",
    [
        plain("a", usage={"prompt_tokens": 1}),
        plain("a", x_groq={"id": "r"}),
        plain("a", vendor={"content": "b"}),
        plain("a", padding="x" * MAX_FRAME_BYTES),
        plain("a", choices=[]),
        plain("a", choices=[{"delta": {"content": "a"}, "finish_reason": "stop"}]),
        plain("a", choices=[{"delta": {"content": "a"}, "logprobs": {}}]),
        plain("a", choices=[{"delta": {"content": "a", "tool_calls": [{}]}}]),
        plain("a", choices=[{"delta": {"content": "a"}}] * 2),
    ],
)
def test_chunks_that_say_more_than_words_are_not_remembered(chunk: dict[str, Any]) -> None:
    """Usage, an end, calls, probabilities or a second choice: all of that must be looked at."""
    frame = SameFrame()
    data = written(chunk)
    frame.learn(data, load_json(data))
    assert frame.words(data) is None


def test_words_after_long_thoughts_are_passed_over_too() -> None:
    """However many chunks come before that say no words."""
    reader = Reader(SameFrame())
    for thought in ["hm"] * (2 * MAX_MISSES):
        reader.read(written(plain("", choices=[{"delta": {"reasoning_content": thought}}])))
    for words in ["One", " two", " three"]:
        reader.read(written(plain(words)))
    assert reader.passed_over == 2


def test_a_stream_that_never_repeats_itself_is_not_remembered_for_ever() -> None:
    """A server may pad its chunks at random; a hit in between starts the count anew."""
    frame = SameFrame()
    padded = [written(plain("a", padding="x" * size)) for size in range(MAX_MISSES + 1)]
    for data in [*padded[:-1], padded[-2], *padded]:
        if frame.words(data) is None:
            frame.learn(data, load_json(data))
    assert frame.words(padded[-2]) is None
    assert frame.words(padded[-1]) is None
