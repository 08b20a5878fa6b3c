"""A conversation as Gemini has it: turns, calls and their results, signatures, and all kinds of media."""

import itertools
import json
from typing import Any

import msgspec
import pytest
from fakes.gemini_site import request_of
from hypothesis import given
from hypothesis import strategies as st

from quillgate_core.errors import InvalidRequest
from quillgate_core.providers.gemini_contents import NO_SIGNATURE, conversation

CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bern"}'}}
CLOCK = {"id": "c2", "type": "function", "function": {"name": "clock", "arguments": ""}}
SIGNATURE = {"extra_content": {"google": {"thought_signature": "sig-1"}}}
DETAILS = [
    {"type": "reasoning.text", "text": "hm", "format": "google-gemini-v1", "index": 0},
    {"type": "reasoning.encrypted", "data": "sig-2", "id": "c1", "format": "google-gemini-v1", "index": 1},
    {"type": "reasoning.encrypted", "data": "foreign", "id": "c1", "format": "anthropic-claude-v1", "index": 2},
    {"type": "reasoning.encrypted", "data": "sig-3", "id": None, "format": "google-gemini-v1", "index": 3},
]
PNG = "data:image/png;base64,AAAA"


def talk(*messages: dict[str, Any], needs_signatures: bool = False) -> tuple[list[Any], list[Any]]:
    """The system texts and the turns."""
    found = conversation(request_of({"messages": list(messages)}).messages, needs_signatures=needs_signatures)
    # Through JSON, because arguments are kept as JSON text.
    system, contents = json.loads(msgspec.json.encode([found.system, found.contents]))
    return system, contents


def user_parts(*parts: dict[str, Any]) -> Any:
    """What the content parts of a user become."""
    return talk({"role": "user", "content": list(parts)})[1][0]["parts"]


def test_system_texts_are_the_instruction_wherever_they_stand() -> None:
    """`system` and `developer` have one place, in their order; empty texts have none."""
    system, contents = talk(
        {"role": "system", "content": "One."},
        {"role": "user", "content": "hi"},
        {"role": "developer", "content": [{"type": "text", "text": "Two."}, {"type": "text", "text": ""}]},
        {"role": "system", "content": ""},
    )
    assert system == [{"text": "One."}, {"text": "Two."}]
    assert contents == [{"role": "user", "parts": [{"text": "hi"}]}]


def test_neighbours_of_a_role_become_one_turn() -> None:
    """Gemini's turns alternate."""
    _, contents = talk(
        {"role": "user", "content": "a"},
        {"role": "user", "content": "b"},
        {"role": "assistant", "content": "c"},
        {"role": "assistant", "content": None, "refusal": "no"},
        {"role": "user", "content": "d"},
    )
    assert contents == [
        {"role": "user", "parts": [{"text": "a"}, {"text": "b"}]},
        {"role": "model", "parts": [{"text": "c"}, {"text": "no"}]},
        {"role": "user", "parts": [{"text": "d"}]},
    ]


def test_parallel_results_are_one_turn_of_their_own() -> None:
    """Results follow the calls that they answer, with names that only the calls had, apart from what is said next."""
    _, contents = talk(
        {"role": "assistant", "content": "Let me look.", "tool_calls": [CALL, CLOCK]},
        {"role": "tool", "tool_call_id": "c2", "content": "noon"},
        {"role": "tool", "tool_call_id": "c1", "content": ' {"t": 1.0, "n": 12345678901234567890} '},
        {"role": "user", "content": "Thanks."},
    )
    assert contents == [
        {
            "role": "model",
            "parts": [
                {"text": "Let me look."},
                {"functionCall": {"id": "c1", "name": "weather", "args": {"city": "Bern"}}},
                {"functionCall": {"id": "c2", "name": "clock", "args": {}}},
            ],
        },
        {
            "role": "user",
            "parts": [
                {"functionResponse": {"id": "c2", "name": "clock", "response": {"result": "noon"}}},
                {
                    "functionResponse": {
                        "id": "c1",
                        "name": "weather",
                        "response": {"t": 1.0, "n": 12345678901234567890},
                    }
                },
            ],
        },
        {"role": "user", "parts": [{"text": "Thanks."}]},
    ]


@pytest.mark.parametrize("result", ["", "[1, 2]", "5", "{broken", '"text"', "plain\nlines"])
def test_a_result_that_is_no_object_is_put_into_one(result: str) -> None:
    """Gemini takes objects only; text stays as it was."""
    _, contents = talk(
        {"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "tool_call_id": "c1", "content": result}
    )
    assert contents[1]["parts"][0]["functionResponse"]["response"] == {"result": result}


def test_arguments_pass_to_the_last_digit() -> None:
    """Numbers beyond 64 bits and trailing zeros stay what the model wrote."""
    arguments = '{"n": 123456789012345678901234567890, "x": 1.50, "deep": {"a": [1.0]}}'
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
    found = conversation(
        request_of({"messages": [{"role": "assistant", "tool_calls": [call]}]}).messages, needs_signatures=False
    )
    assert arguments.encode() in msgspec.json.encode(found.contents)


@pytest.mark.parametrize("arguments", ["{broken", "[1]", '"x"', "null"])
def test_arguments_that_are_no_object_do_not_end_a_conversation(arguments: str) -> None:
    """A model may have written nonsense; it is told what it wrote."""
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
    _, contents = talk({"role": "assistant", "tool_calls": [call]})
    assert contents[0]["parts"] == [{"functionCall": {"id": "c", "name": "f", "args": {"input": arguments}}}]


def test_older_forms_of_calls_are_read() -> None:
    """Conversations with `function_call`, role `function` and custom tools can be continued."""
    _, contents = talk(
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": '{"a": 1}'}},
        {"role": "function", "name": "f", "content": "done"},
        {"role": "assistant", "tool_calls": [{"id": "c", "type": "custom", "custom": {"name": "sh", "input": "ls"}}]},
    )
    assert [turn["parts"] for turn in contents] == [
        [{"functionCall": {"name": "f", "args": {"a": 1}}}],
        [{"functionResponse": {"name": "f", "response": {"result": "done"}}}],
        [{"functionCall": {"id": "c", "name": "sh", "args": {"input": "ls"}}}],
    ]


def test_a_signature_comes_back_as_it_went() -> None:
    """Clients keep a call's signature in the call or in the reasoning details; other vendors' are not Gemini's."""
    in_call = talk({"role": "assistant", "content": "x", "tool_calls": [{**CALL, **SIGNATURE}]})[1][0]["parts"]
    assert [part.get("thoughtSignature") for part in in_call] == [None, "sig-1"]
    message = {"role": "assistant", "content": "x", "tool_calls": [CALL], "reasoning_details": DETAILS}
    in_details = talk(message)[1][0]["parts"]
    assert [part.get("thoughtSignature") for part in in_details] == ["sig-3", "sig-2"]


def test_a_missing_signature_is_made_up_for_where_it_must_not_be_missing() -> None:
    """Newer models refuse a step whose first call has none: after another model, or through a client that drops it."""
    calls = {"role": "assistant", "tool_calls": [CALL, CLOCK]}
    signed = {"role": "assistant", "tool_calls": [{**CALL, **SIGNATURE}, CLOCK]}
    for message, signatures in ((calls, [NO_SIGNATURE, None]), (signed, ["sig-1", None])):
        parts = talk(message, needs_signatures=True)[1][0]["parts"]
        assert [part.get("thoughtSignature") for part in parts] == signatures
    assert all("thoughtSignature" not in part for part in talk(calls)[1][0]["parts"])


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ({"type": "image_url", "image_url": {"url": PNG}}, {"inlineData": {"mimeType": "image/png", "data": "AAAA"}}),
        (
            {"type": "image_url", "image_url": {"url": "data:image/svg+xml;charset=utf-8;base64,AAAA"}},
            {"inlineData": {"mimeType": "image/svg+xml", "data": "AAAA"}},
        ),
        (
            {"type": "image_url", "image_url": {"url": "https://x.example/a.JPG?s=1#f", "detail": "low"}},
            {"fileData": {"mimeType": "image/jpeg", "fileUri": "https://x.example/a.JPG?s=1#f"}},
        ),
        (
            {"type": "image_url", "image_url": {"url": "https://x.example/a"}},
            {"fileData": {"fileUri": "https://x.example/a"}},
        ),
        (
            {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "mp3"}},
            {"inlineData": {"mimeType": "audio/mp3", "data": "AAAA"}},
        ),
        (
            {"type": "input_audio", "input_audio": {"data": "data:audio/ogg;base64,AAAA", "format": "wav"}},
            {"inlineData": {"mimeType": "audio/ogg", "data": "AAAA"}},
        ),
        (
            {"type": "file", "file": {"file_data": "data:application/pdf;base64,AAAA", "filename": "a.pdf"}},
            {"inlineData": {"mimeType": "application/pdf", "data": "AAAA"}},
        ),
        (
            {"type": "file", "file": {"file_data": "AAAA", "filename": "a.pdf"}},
            {"inlineData": {"mimeType": "application/pdf", "data": "AAAA"}},
        ),
        (
            {"type": "file", "file": {"file_data": "https://x.example/a.pdf"}},
            {"fileData": {"mimeType": "application/pdf", "fileUri": "https://x.example/a.pdf"}},
        ),
        (
            {"type": "file", "file": {"file_id": "https://generativelanguage.googleapis.com/v1beta/files/f1"}},
            {"fileData": {"fileUri": "https://generativelanguage.googleapis.com/v1beta/files/f1"}},
        ),
        (
            {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAAA"}},
            {"inlineData": {"mimeType": "video/mp4", "data": "AAAA"}},
        ),
        (
            {"type": "video_url", "video_url": {"url": "https://www.youtube.com/watch?v=1"}},
            {"fileData": {"fileUri": "https://www.youtube.com/watch?v=1"}},
        ),
        ({"type": "refusal", "refusal": "no"}, {"text": "no"}),
    ],
)
def test_media_are_sent_inline_or_by_address(part: dict[str, Any], expected: dict[str, Any]) -> None:
    """Content goes along, an https address is Gemini's to fetch."""
    assert user_parts({"type": "text", "text": "see"}, part) == [{"text": "see"}, expected]


@pytest.mark.parametrize(
    ("part", "param", "code"),
    [
        ({"type": "image_url", "image_url": {"url": "http://x.example/a.png"}}, "image_url.url", "invalid_value"),
        ({"type": "image_url", "image_url": {"url": "data:image/png,%20"}}, "image_url.url", "invalid_value"),
        ({"type": "image_url", "image_url": {"url": "data:;base64,AAAA"}}, "image_url.url", "invalid_value"),
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}, "image_url.url", "invalid_value"),
        ({"type": "image_url"}, "image_url.url", "invalid_value"),
        ({"type": "input_audio", "input_audio": {"format": "wav"}}, "input_audio.data", "invalid_value"),
        ({"type": "input_audio", "input_audio": {"data": "A", "format": ""}}, "input_audio.format", "invalid_value"),
        ({"type": "input_audio", "input_audio": {"data": "A", "format": "pdf"}}, "input_audio.format", "invalid_value"),
        ({"type": "file", "file": {"file_data": "AAAA"}}, "file.file_data", "invalid_value"),
        ({"type": "file", "file": {"file_id": "file-1"}}, "file.file_id", "unsupported_value"),
        ({"type": "video_url", "video_url": {}}, "video_url", "invalid_value"),
        ({"type": "hologram", "hologram": {}}, "type", "unsupported_value"),
    ],
)
def test_media_that_gemini_cannot_see_are_refused(part: dict[str, Any], param: str, code: str) -> None:
    """A part that would be dropped or misread is told by its place."""
    with pytest.raises(InvalidRequest) as caught:
        user_parts({"type": "text", "text": "see"}, part)
    assert caught.value.metadata == {"param": f"messages[0].content[1].{param}", "code": code}


def test_images_in_results_are_seen_by_every_model() -> None:
    """Newer models take them within the result, older ones beside it."""
    image = {"type": "image_url", "image_url": {"url": PNG}}
    texts = [{"type": "text", "text": "well"}, {"type": "text", "text": "done"}]
    result = {"role": "tool", "tool_call_id": "c1", "content": [texts[0], image, texts[1]]}
    inline = {"inlineData": {"mimeType": "image/png", "data": "AAAA"}}
    made = {"id": "c1", "name": "weather", "response": {"result": "well\ndone"}}
    older = talk({"role": "assistant", "tool_calls": [CALL]}, result)[1][1]["parts"]
    assert older == [{"functionResponse": made}, inline]
    newer = talk({"role": "assistant", "tool_calls": [CALL]}, result, needs_signatures=True)[1][1]["parts"]
    assert newer == [{"functionResponse": {**made, "parts": [inline]}}]


@pytest.mark.parametrize(
    ("messages", "param", "code"),
    [
        ([{"role": "tool", "tool_call_id": "x", "content": "?"}], "messages[0].tool_call_id", "invalid_value"),
        (
            [{"role": "system", "content": [{"type": "image_url", "image_url": {"url": PNG}}]}],
            "messages[0].content",
            "unsupported_value",
        ),
        (
            [{"role": "assistant", "tool_calls": [{"id": "c", "type": "function", "function": {}}]}],
            "messages[0].tool_calls[0].function.name",
            "missing_required_parameter",
        ),
    ],
)
def test_a_conversation_that_cannot_be_told_is_refused(messages: list[Any], param: str, code: str) -> None:
    """Results without a call, pictures for the system and calls without a name are the caller's mistakes."""
    with pytest.raises(InvalidRequest) as caught:
        talk(*messages)
    assert caught.value.metadata == {"param": param, "code": code}


def test_system_texts_alone_ask() -> None:
    """Gemini wants a turn; OpenAI does not."""
    assert talk({"role": "system", "content": "Say hi."}) == ([], [{"role": "user", "parts": [{"text": "Say hi."}]}])
    assert talk({"role": "user", "content": ""}) == ([], [{"role": "user", "parts": [{"text": " "}]}])


_TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=5)
_MESSAGES = st.one_of(
    st.builds(
        lambda role, text: {"role": role, "content": text},
        st.sampled_from(["system", "developer", "user", "assistant"]),
        _TEXTS,
    ),
    st.builds(lambda text: {"role": "assistant", "content": text, "tool_calls": [CALL, CLOCK]}, _TEXTS),
    st.builds(
        lambda call_id, text: {"role": "tool", "name": "f", "tool_call_id": call_id, "content": text},
        st.sampled_from(["c1", "c2", "c9"]),
        _TEXTS,
    ),
)


@given(st.lists(_MESSAGES, max_size=12), st.booleans())
def test_any_conversation_has_valid_turns(messages: list[dict[str, Any]], needs_signatures: bool) -> None:
    """Whatever roles follow each other, every turn has parts, models alternate with users, and no text is lost."""
    system, contents = talk(*messages, needs_signatures=needs_signatures)
    assert contents
    assert all(turn["parts"] for turn in contents)
    roles = [turn["role"] for turn in contents]
    assert all(not (one == two == "model") for one, two in itertools.pairwise(roles))
    parts = [*system, *(part for turn in contents for part in turn["parts"])]
    texts = [part["text"] for part in parts if "text" in part]
    assert all(texts)
    said = [message["content"] for message in messages if message["role"] != "tool" and message["content"]]
    assert sorted(texts) == sorted(said) or (not said and texts == [" "])
    results = sum("functionResponse" in part for part in parts)
    assert results == sum(message["role"] == "tool" for message in messages)
