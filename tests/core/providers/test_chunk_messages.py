"""Messages of chunks that differ in their words alone: as if each had been decoded, which only the first one is."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quillgate_codec import JsonError, load_json, provider_chat_chunk
from quillgate_core.providers.chunk_messages import ChunkMessages
from quillgate_core.providers.dialect_answer import clean_value
from quillgate_core.providers.provider_error import ProviderErrors

ERRORS = ProviderErrors("vendor", None)
WORDS = st.one_of(
    st.sampled_from(["a", " hello", "", "é", "\x7f", 'say "x"', "back\\slash", "line\nbreak", "🙂", '":"']),
    st.text(max_size=8),
)
MEMBERS = st.fixed_dictionaries(
    {},
    optional={
        "created": st.sampled_from([7, 8]),
        "usage": st.sampled_from([None, {"prompt_tokens": 3, "completion_tokens": 1}]),
        "vendor": st.sampled_from([None, {"content": "x"}, [1, {"deep": "\n"}]]),
    },
)
ROLE = st.sampled_from([{}, {}, {"role": "assistant"}, {"reasoning": "hm"}])


class Decoder:
    """Decodes as a provider's adapter does, and counts how often."""

    def __init__(self) -> None:
        self.decoded = 0

    def __call__(self, data: bytes) -> dict[str, Any]:
        self.decoded += 1
        return clean_value(load_json(data), ERRORS)


def chunk(words: str, *, said: dict[str, str] | None = None, raw: bool = True, **members: Any) -> bytes:
    """A chunk with one choice, as a server writes it."""
    choice = {"index": 0, "delta": {**(said or {}), "content": words}, "logprobs": None, "finish_reason": None}
    value = {"id": "up-1", "model": "m", "choices": [choice], **members}
    return json.dumps(value, ensure_ascii=not raw).encode("utf-8", "surrogatepass")


@given(stream=st.lists(st.tuples(MEMBERS, ROLE, st.lists(WORDS, max_size=4)), max_size=4), raw=st.booleans())
def test_messages_are_those_that_decoding_makes(
    stream: list[tuple[dict[str, Any], dict[str, str], list[str]]], raw: bool
) -> None:
    """Whatever else the chunks hold, and whatever the caller does with the messages before."""
    messages = ChunkMessages(Decoder())
    for members, said, texts in stream:
        for words in texts:
            data = chunk(words, said=said, raw=raw, **members)
            try:
                expected = provider_chat_chunk.from_value(clean_value(load_json(data), ERRORS))
            except JsonError:
                with pytest.raises(JsonError):
                    messages.read(data)
                continue
            found = messages.read(data)
            assert found == expected
            found.Clear()


def test_the_usual_stream_is_decoded_once() -> None:
    """What differs in its words alone is not decoded again; what comes after an end is."""
    decode = Decoder()
    messages = ChunkMessages(decode)
    texts = ["One", " two", " thrée", ' "four"\n', " 🙂"]
    assert [messages.read(chunk(words)).choices[0].delta.content for words in texts] == texts
    assert decode.decoded == 1
    end = json.dumps({"id": "up-1", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}).encode()
    assert messages.read(end).choices[0].finish_reason == "stop"
    messages.read(chunk("again"))
    assert decode.decoded == 3
