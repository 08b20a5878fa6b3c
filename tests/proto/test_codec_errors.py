"""What the codec says of JSON that does not fit: path, code and words; and that it never fails in another way."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from proto.contract_walk import Place, places
from proto.json_strategies import JsonValues, any_json

from quillgate.v1 import chat_completion_pb2
from quillgate_codec import MAX_DEPTH, Codec, JsonError, chat_request, load_json, provider_chat_answer

REQUEST = chat_completion_pb2.ChatCompletionRequest.DESCRIPTOR
ANSWER = chat_completion_pb2.ChatCompletion.DESCRIPTOR
strict_answer = Codec(chat_completion_pb2.ChatCompletion)

SAMPLES: dict[str, list[Any]] = {
    "string": ["", "text"],
    "integer": [0, 1],
    "number": [1.5, 2.0],
    "boolean": [True, False],
    "array": [[], [7]],
    "object": [{}, {"key": 7}],
    "null": [None],
}
WORDS = {
    "string": "a string",
    "integer": "an integer",
    "number": "a decimal number",
    "boolean": "a boolean",
    "array": "an array",
    "object": "an object",
    "null": "null",
}
thorough = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))


def wrong_kinds(place: Place) -> list[str]:
    """The kinds that the place must refuse: an integer is a number as well, null stands for absent."""
    right = {*place.kinds, *(["integer"] if "number" in place.kinds else []), *(["null"] if place.nullable else [])}
    return [kind for kind in SAMPLES if kind not in right]


def error_of(codec: Codec[Any], data: bytes) -> JsonError:
    """The error that reading the data raises."""
    with pytest.raises(JsonError) as caught:
        codec.from_json(data)
    return caught.value


def assert_refused(codec: Codec[Any], place: Place, kind: str) -> None:
    """Assert code, path and words of the error for every sample of the kind in the place."""
    wanted = " or ".join(WORDS[right] for right in place.kinds)
    one_of = "one of " if len(place.kinds) > 1 else ""
    where = f" for '{place.path}'" if place.path else ""
    for sample in SAMPLES[kind]:
        error = error_of(codec, json.dumps(place.document(sample)).encode())
        assert (error.code, error.path) == ("invalid_type", place.path)
        assert str(error) == f"Invalid type{where}: expected {one_of}{wanted}, but got {WORDS[kind]} instead."


@pytest.mark.parametrize("place", list(places(REQUEST)), ids=lambda place: place.path or "(root)")
def test_a_request_member_of_the_wrong_kind_is_named(place: Place) -> None:
    """Every typed place of a request refuses every other kind, empty ones too, and says where and what it wants."""
    for kind in wrong_kinds(place):
        assert_refused(chat_request, place, kind)


@pytest.mark.parametrize("place", list(places(ANSWER)), ids=lambda place: place.path or "(root)")
def test_an_answer_member_of_the_wrong_kind_is_named_when_read_strictly(place: Place) -> None:
    """Every typed place of an answer refuses every other kind as well."""
    for kind in wrong_kinds(place):
        assert_refused(strict_answer, place, kind)


@pytest.mark.parametrize("place", [place for place in places(ANSWER) if place.path], ids=lambda place: place.path)
def test_a_lenient_codec_keeps_what_does_not_fit(place: Place) -> None:
    """In a provider's answer a member of the wrong kind is kept as it is."""
    for kind in wrong_kinds(place):
        for sample in SAMPLES[kind]:
            value = place.document(sample)
            message = provider_chat_answer.from_json(json.dumps(value).encode())
            assert json.loads(provider_chat_answer.to_json(message)) == value


def test_a_lenient_codec_reads_the_members_that_fit_beside_those_that_do_not() -> None:
    """One odd member does not cost the others their fields."""
    data = b'{"id": 5, "model": "m", "choices": [{"index": 0, "finish_reason": 3}], "created": 1.7e9}'
    answer = provider_chat_answer.from_json(data)
    assert (answer.HasField("id"), answer.model, answer.created) == (False, "m", 1_700_000_000)
    assert (answer.choices[0].index, answer.choices[0].HasField("finish_reason")) == (0, False)


def test_a_lenient_codec_still_wants_an_object() -> None:
    """There is nowhere to keep a whole answer that is no object."""
    assert str(error_of(provider_chat_answer, b"[1]")) == "Invalid type: expected an object, but got an array instead."


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 10**30])
def test_an_integer_out_of_range_is_named(number: int) -> None:
    """Integer fields hold 64 bits; beyond that the value is invalid, in scalars and lists, not of the wrong type."""
    error = error_of(chat_request, json.dumps({"seed": number}).encode())
    assert (error.code, error.path) == ("invalid_value", "seed")
    assert str(error) == "Invalid value for 'seed': the integer is out of range."
    bytes_of_token = {"choices": [{"logprobs": {"content": [{"bytes": [1, number]}]}}]}
    error = error_of(strict_answer, json.dumps(bytes_of_token).encode())
    assert (error.code, error.path) == ("invalid_value", "choices[0].logprobs.content[0].bytes[1]")
    assert json.loads(provider_chat_answer.to_json(provider_chat_answer.from_json(json.dumps(bytes_of_token).encode())))


def test_the_largest_integers_are_exact() -> None:
    """The ends of the range pass without loss."""
    for number in (2**63 - 1, -(2**63)):
        assert json.loads(chat_request.to_json(chat_request.from_json(json.dumps({"seed": number}).encode()))) == {
            "seed": number
        }


@pytest.mark.parametrize("value", [{"temperature": 2**53 + 1}, {"logit_bias": {"a.b": -(10**30)}}])
def test_an_integer_that_a_number_field_would_round_is_refused(value: dict[str, Any]) -> None:
    """A double holds integers exactly up to 2^53; more would come back changed."""
    error = error_of(chat_request, json.dumps(value).encode())
    assert (error.code, error.path) == ("invalid_value", "temperature" if "temperature" in value else "logit_bias.a.b")


@pytest.mark.parametrize(
    "data",
    [
        *(
            b"",
            b" ",
            b"{",
            b'{"model": "m"',
            b'{"model": "m"} x',
            b"{'model': 'm'}",
            b'{"a": 01}',
            b'{"a": tru}',
            b"\x00",
        ),
        *(b'{"a": NaN}', b'{"a": Infinity}', b'{"a": -Infinity}', b'{"a": 1e999}', b"\xef\xbb\xbf{}", b'{"a": "\n"}'),
        *(
            b'{"a": "\xff"}',
            b'{"a": "\xed\xa0\x80"}',
            b'{"\xc3": 1}',
            b'{"a": "\xf4\x90\x80\x80"}',
            "{}".encode("utf-16"),
        ),
        *(rb'{"a": "\ud800"}', rb'{"a": "\udc00"}', rb'{"a": "\ud800\ud800"}', rb'{"\ud800x": 1}', rb'{"a": "\ud8"}'),
        *(b'{"a": ' + b"9" * 5000 + b"}", b'{"a": 1' + b"0" * 400 + b".5}"),
    ],
    ids=lambda data: repr(data[:24]),
)
def test_text_that_is_not_json_is_refused(data: bytes) -> None:
    """Malformed text, invalid UTF-8, lone surrogates and numbers that are none: invalid_json, strict or lenient."""
    for codec in (chat_request, provider_chat_answer):
        error = error_of(codec, data)
        assert (error.code, error.path) == ("invalid_json", "")
        assert str(error).startswith("We could not parse the JSON body of your request: ")


@pytest.mark.parametrize(
    "data",
    [rb'{"user": "a\u0000b"}', rb'{"a\u0000": 1}', rb'{"x": [[{"y": ["\u0000"]}]]}', rb'{"metadata": {"\u0000": ""}}'],
)
@pytest.mark.parametrize("padding", [b"", b" " * 5000], ids=["short", "long"])
def test_a_nul_in_a_string_or_a_name_is_refused(data: bytes, padding: bytes) -> None:
    """Databases and C programs cut text at NUL, so no client may send one, however long the text is."""
    error = error_of(chat_request, data + padding)
    assert (error.code, error.path) == ("invalid_json", "")
    assert str(error).endswith("strings must not contain NUL characters.")


@pytest.mark.parametrize("padding", [b"", b" " * 5000], ids=["short", "long"])
def test_an_escaped_backslash_before_u0000_is_not_a_nul(padding: bytes) -> None:
    r"""`\\u0000` is a backslash and the letters u0000."""
    assert chat_request.from_json(rb'{"user": "\\u0000"}' + padding).user == r"\u0000"


def test_a_provider_may_send_nul() -> None:
    """What a model writes is not ours to refuse."""
    chunk = provider_chat_answer.from_json(rb'{"id": "a\u0000"}')
    assert chunk.id == "a\0"


def nested(depth: int, opening: bytes, closing: bytes) -> bytes:
    """A request whose deepest value is `depth` levels deep."""
    levels = depth - 1
    return b'{"x": ' + opening * levels + b"1" + closing * levels + b"}"


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a": ', b"}")], ids=["arrays", "objects"])
@pytest.mark.parametrize("codec", [chat_request, provider_chat_answer], ids=["strict", "lenient"])
@pytest.mark.parametrize("padding", [b"", b" " * 5000], ids=["short", "long"])
def test_nesting_is_limited(codec: Codec[Any], padding: bytes, opening: bytes, closing: bytes) -> None:
    """MAX_DEPTH levels pass, one more is refused, and 2,000 or a million cost nothing."""
    assert codec.from_json(nested(MAX_DEPTH, opening, closing) + padding)
    for depth in (MAX_DEPTH + 1, 2_000, 1_000_000):
        assert error_of(codec, nested(depth, opening, closing) + padding).code == "invalid_json"
    assert MAX_DEPTH == 64


def test_many_brackets_are_not_depth() -> None:
    """Only nesting counts: siblings and brackets within strings are free."""
    value = {"messages": [{"role": "user", "content": "[" * 100 + "{" * 100}] * 100}
    assert len(chat_request.from_json(json.dumps(value).encode()).messages) == 100


def test_the_last_of_duplicate_members_wins() -> None:
    """Duplicates are legal JSON of undefined meaning; like most readers we take the last, wherever it is kept."""
    request = chat_request.from_json(b'{"model": "a", "x": 1, "model": "b", "x": 2}')
    assert json.loads(chat_request.to_json(request)) == {"model": "b", "x": 2}


@pytest.mark.parametrize("value", [1, None, "{}", {}, {"model": "evil"}, {"extra_json": {"extra_json": 2}}])
def test_a_member_named_extra_json_is_an_unknown_member(value: Any) -> None:
    """A client cannot write the field: the member survives inside it like any other unknown name."""
    sent = {"extra_json": value, "model": "m", "messages": [{"extra_json": value}]}
    request = chat_request.from_json(json.dumps(sent).encode())
    assert json.loads(request.extra_json) == {"extra_json": value}
    assert request.model == "m"
    assert json.loads(chat_request.to_json(request)) == sent


def with_extra(extra: bytes) -> chat_completion_pb2.ChatCompletionRequest:
    """A request as a gRPC caller could make it."""
    return chat_completion_pb2.ChatCompletionRequest(model="m", extra_json=extra)


@pytest.mark.parametrize(
    "extra",
    [b"", b"{}", b'{"top_k": 1}', b'{"seed": null, "tools": [], "metadata": {}}', b'{"extra_json": {"model": 1}}'],
)
def test_check_extra_accepts_what_fields_cannot_hold(extra: bytes) -> None:
    """Unknown members, nulls, and the empty array or object of a list or a map may be in extra_json."""
    chat_request.check_extra(with_extra(extra))


@pytest.mark.parametrize(
    ("extra", "problem"),
    [
        (b'{"max_tokens": 5}', "`max_tokens` has a field of its own"),
        (b'{"messages": {}}', "`messages` has a field of its own"),
        (b'{"model": []}', "`model` has a field of its own"),
        (b'{"metadata": []}', "`metadata` has a field of its own"),
        (b'{"stream_options": {}}', "`stream_options` has a field of its own"),
        (b'{"moderation": 0}', "`moderation` has a field of its own"),
        (b"[]", "it must be a JSON object"),
        (b"null", "it must be a JSON object"),
    ],
)
def test_check_extra_refuses_members_that_have_fields(extra: bytes, problem: str) -> None:
    """A gRPC caller cannot smuggle a typed member past the code that reads the field."""
    with pytest.raises(JsonError) as caught:
        chat_request.check_extra(with_extra(extra))
    assert (caught.value.code, caught.value.path, caught.value.problem) == ("invalid_value", "extra_json", problem)


def test_check_extra_refuses_text_that_is_not_json() -> None:
    """The bytes of a gRPC caller are anybody's bytes."""
    with pytest.raises(JsonError) as caught:
        chat_request.check_extra(with_extra(b"{"))
    assert caught.value.code == "invalid_json"


MESSAGE = chat_completion_pb2.ChatMessage


@pytest.mark.parametrize(
    ("request_", "path"),
    [
        (chat_completion_pb2.ChatCompletionRequest(extra_json=b"{"), "extra_json"),
        (chat_completion_pb2.ChatCompletionRequest(extra_json=b"[]"), "extra_json"),
        (
            chat_completion_pb2.ChatCompletionRequest(messages=[MESSAGE(), MESSAGE(extra_json=b"1")]),
            "messages[1].extra_json",
        ),
        (chat_completion_pb2.ChatCompletionRequest(moderation=b""), "moderation"),
        (chat_completion_pb2.ChatCompletionRequest(moderation=b"[" * 5000 + b"]" * 5000), "moderation"),
        (chat_completion_pb2.ChatCompletionRequest(stop=chat_completion_pb2.StringOrList()), "stop"),
        (chat_completion_pb2.ChatCompletionRequest(temperature=float("nan")), "temperature"),
        (chat_completion_pb2.ChatCompletionRequest(logit_bias={"1": float("-inf")}), "logit_bias.1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_message_that_is_no_json_is_refused(request_: chat_completion_pb2.ChatCompletionRequest, path: str) -> None:
    """A gRPC caller can make messages that JSON cannot express; writing them names the field."""
    with pytest.raises(JsonError) as caught:
        chat_request.to_json(request_)
    assert (caught.value.code, caught.value.path) == ("invalid_value", path)


def deepest_that_loads() -> int:
    """How many arrays deep JSON may be for this Python to decode it."""
    low, high = 1, 1_000_000
    while high - low > 1:
        middle = (low + high) // 2
        try:
            load_json(b"[" * middle + b"]" * middle)
        except JsonError:
            high = middle
        else:
            low = middle
    return low


def test_raw_json_that_becomes_too_deep_in_its_place_is_refused() -> None:
    """Raw JSON that is just not too deep alone may be so within the message; that is a JsonError, too."""
    limit = deepest_that_loads()
    for depth in range(limit - 60, limit + 3):
        answer = chat_completion_pb2.ChatCompletion()
        answer.choices.add(extra_json=b'{"x": ' + b"[" * depth + b"]" * depth + b"}")
        try:
            provider_chat_answer.to_json(answer)
        except JsonError as error:
            assert error.code == "invalid_value"


def test_a_field_wins_over_the_same_member_in_extra_json() -> None:
    """Only a gRPC caller can make such a message; what the code reads is then what the provider gets."""
    request = chat_completion_pb2.ChatCompletionRequest(
        model="m", messages=[MESSAGE(role="user", extra_json=b'{"role": "system", "x": 1}')]
    )
    assert json.loads(chat_request.to_json(request)) == {"model": "m", "messages": [{"role": "user", "x": 1}]}


CODECS: list[Codec[Any]] = [chat_request, strict_answer, provider_chat_answer]


def assert_reads_or_refuses(data: bytes) -> None:
    """Assert that nothing but JsonError is ever raised, and that what was read can be written."""
    for codec in CODECS:
        try:
            message = codec.from_json(data)
        except JsonError as error:
            assert str(error)
        else:
            codec.to_json(message)


@thorough
@given(st.binary(max_size=64) | st.text(max_size=64).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_arbitrary_bytes_raise_nothing_else(data: bytes) -> None:
    """Bytes that are no JSON raise JsonError."""
    assert_reads_or_refuses(data)


@thorough
@given(any_json)
def test_arbitrary_json_raises_nothing_else(value: Any) -> None:
    """JSON of any shape raises JsonError or is read."""
    assert_reads_or_refuses(json.dumps(value).encode())


@thorough
@given(JsonValues(wild=True).message(REQUEST))
def test_requests_with_members_of_any_kind_raise_nothing_else(value: Any) -> None:
    """Typed members of any kind raise JsonError or are read."""
    assert_reads_or_refuses(json.dumps(value).encode())


@thorough
@given(JsonValues(wild=False).message(REQUEST), st.data())
def test_mutated_requests_raise_nothing_else(value: Any, data: st.DataObject) -> None:
    """A valid request with some bytes replaced raises JsonError or is read."""
    text = json.dumps(value, ensure_ascii=data.draw(st.booleans())).encode()
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(start, min(len(text), start + 4)))
        splice = st.binary(max_size=4) | st.sampled_from(
            [b"null", b"[]", b"{}", b'"', b",", b"1e400", b"\\u0000", b"-"]
        )
        text = text[:start] + data.draw(splice) + text[end:]
    assert_reads_or_refuses(text)


def test_load_json_keeps_what_msgspec_reads() -> None:
    """Integers of any size and floats stay what they are."""
    assert load_json(b"[123456789012345678901234567890, 1.0, 1]") == [123456789012345678901234567890, 1.0, 1]
    assert [type(item) for item in load_json(b"[1.0, 1]")] == [float, int]
