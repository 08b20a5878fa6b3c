"""JSON that goes through messages and the wire comes back unchanged: properties, and realistic bodies in `corpus/`."""

import json
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from proto.json_likeness import JsonLikeness, with_answer_nulls
from proto.json_strategies import JsonValues, shape

from quillgate.v1 import (
    chat_completion_pb2,
    json_pb2,
    model_service_pb2,
    response_pb2,
    text_completion_pb2,
    transcription_pb2,
)
from quillgate_codec import (
    Codec,
    chat_answer,
    chat_chunk,
    chat_request,
    model,
    model_list,
    provider_chat_answer,
    provider_chat_chunk,
)

CORPUS = Path(__file__).parent / "corpus"

REQUEST = chat_completion_pb2.ChatCompletionRequest.DESCRIPTOR
ANSWER = chat_completion_pb2.ChatCompletion.DESCRIPTOR
CHUNK = chat_completion_pb2.ChatCompletionChunk.DESCRIPTOR

thorough = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


def through(codec: Codec[Any], value: Any) -> Any:
    """Send the value as JSON through a message and the wire, and decode what comes back with another JSON library."""
    message: Message = codec.from_json(json.dumps(value).encode())
    received = type(message).FromString(message.SerializeToString())
    assert received == message
    return json.loads(codec.to_json(received))


def assert_unchanged(codec: Codec[Any], descriptor: Descriptor, value: Any, *, lenient: bool = False) -> None:
    """Assert that the value comes back as it went."""
    likeness = JsonLikeness(lenient=lenient)
    assert likeness.text(descriptor, through(codec, value)) == likeness.text(descriptor, value)


def fitting(descriptor: Descriptor) -> st.SearchStrategy[Any]:
    """Values whose typed members are of the right kind."""
    return JsonValues(wild=False).message(descriptor)


def wild(descriptor: Descriptor) -> st.SearchStrategy[Any]:
    """Values whose members may be of any kind."""
    return JsonValues(wild=True).message(descriptor)


@thorough
@given(fitting(REQUEST))
def test_a_request_comes_back_unchanged(value: Any) -> None:
    """Any request, with known and unknown members mixed at every level, survives message and wire."""
    assert_unchanged(chat_request, REQUEST, value)


MODULES = (chat_completion_pb2, text_completion_pb2, response_pb2, transcription_pb2)
NO_JSON = {"TranscriptionOptions", "FormField"}
"""Messages that stand for a form, not for JSON."""
MESSAGES = [
    getattr(module, name)
    for module in MODULES
    for name in sorted(module.DESCRIPTOR.message_types_by_name)
    if name not in NO_JSON
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.DESCRIPTOR.name)
@pytest.mark.parametrize("lenient", [False, True], ids=["strict", "lenient"])
def test_every_message_type_comes_back_unchanged_by_itself(message: Any, lenient: bool) -> None:
    """Each message of the contract is tried as the whole JSON text, so none depends on being drawn inside another."""
    descriptor: Descriptor = message.DESCRIPTOR
    codec: Codec[Any] = Codec(message, lenient=lenient)
    loose = lenient and shape(descriptor) == json_pb2.JSON_SHAPE_OBJECT  # of a union or array the kind must be right

    @settings(thorough, max_examples=15)
    @given(JsonValues(wild=loose).message(descriptor))
    def comes_back_unchanged(value: Any) -> None:
        assert_unchanged(codec, descriptor, value, lenient=lenient)

    comes_back_unchanged()


@thorough
@given(fitting(ANSWER))
def test_an_answer_comes_back_unchanged_when_read_strictly(value: Any) -> None:
    """Any well-typed answer survives a strict codec."""
    assert_unchanged(Codec(chat_completion_pb2.ChatCompletion), ANSWER, value)


@thorough
@given(fitting(CHUNK))
def test_a_chunk_comes_back_unchanged_when_read_strictly(value: Any) -> None:
    """Any well-typed chunk survives a strict codec."""
    assert_unchanged(Codec(chat_completion_pb2.ChatCompletionChunk), CHUNK, value)


@thorough
@given(wild(ANSWER))
def test_an_answer_with_members_of_any_kind_comes_back_unchanged(value: Any) -> None:
    """Whatever a provider puts where, the lenient codec gives it back."""
    assert_unchanged(provider_chat_answer, ANSWER, value, lenient=True)


@thorough
@given(wild(CHUNK))
def test_a_chunk_with_members_of_any_kind_comes_back_unchanged(value: Any) -> None:
    """Whatever a provider puts where in a chunk, the lenient codec gives it back."""
    assert_unchanged(provider_chat_chunk, CHUNK, value, lenient=True)


@thorough
@given(wild(REQUEST))
def test_a_lenient_codec_works_for_requests_as_well(value: Any) -> None:
    """Leniency is a property of the codec, not of the answers' types."""
    assert_unchanged(Codec(chat_completion_pb2.ChatCompletionRequest, lenient=True), REQUEST, value, lenient=True)


@thorough
@given(fitting(ANSWER) | fitting(CHUNK).map(lambda value: {**value, "object": "chat.completion.chunk"}))
def test_an_answer_to_a_client_gains_only_the_promised_nulls(value: Any) -> None:
    """`answers` adds null for absent `always_in_answers` members, and changes nothing else."""
    is_chunk = value.get("object") == "chat.completion.chunk"
    codec: Codec[Any] = chat_chunk if is_chunk else chat_answer
    descriptor = CHUNK if is_chunk else ANSWER
    likeness = JsonLikeness(lenient=False)
    expected = likeness.text(descriptor, with_answer_nulls(descriptor, value))
    assert likeness.text(descriptor, through(codec, value)) == expected


@thorough
@given(fitting(model_service_pb2.ModelList.DESCRIPTOR), fitting(model_service_pb2.Model.DESCRIPTOR))
def test_the_catalogue_comes_back_unchanged(models: Any, one: Any) -> None:
    """A list of models and a model survive like everything else."""
    assert_unchanged(model_list, model_service_pb2.ModelList.DESCRIPTOR, models)
    assert_unchanged(model, model_service_pb2.Model.DESCRIPTOR, one)


@pytest.mark.parametrize("path", sorted(CORPUS.glob("request_*.json")), ids=lambda path: path.stem)
def test_a_realistic_request_comes_back_unchanged(path: Path) -> None:
    """A body as real clients send it survives, and none of it is refused by check_extra."""
    value = json.loads(path.read_bytes())
    chat_request.check_extra(chat_request.from_json(path.read_bytes()))
    assert_unchanged(chat_request, REQUEST, value)


@pytest.mark.parametrize("path", sorted(CORPUS.glob("answer_*.json")), ids=lambda path: path.stem)
def test_a_realistic_answer_comes_back_unchanged(path: Path) -> None:
    """An answer as real providers send it survives."""
    assert_unchanged(provider_chat_answer, ANSWER, json.loads(path.read_bytes()), lenient=True)


@pytest.mark.parametrize("path", sorted(CORPUS.glob("chunks_*.json")), ids=lambda path: path.stem)
def test_realistic_chunks_come_back_unchanged(path: Path) -> None:
    """Every chunk of a stream as real providers send it survives."""
    for value in json.loads(path.read_bytes()):
        assert_unchanged(provider_chat_chunk, CHUNK, value, lenient=True)


def test_the_corpus_is_there() -> None:
    """The parametrized tests above do not pass by finding nothing."""
    for kind in ("request_*.json", "answer_*.json", "chunks_*.json"):
        assert len(list(CORPUS.glob(kind))) > 2


def test_typed_members_are_typed() -> None:
    """What has a field goes into it and not into extra_json, or losslessness would prove nothing."""
    body: dict[str, Any] = {
        "model": "m",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "t"}]}],
        "stop": ["a"],
    }
    body |= {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}], "n": 1}
    message = chat_request.from_json(json.dumps(body).encode())
    assert (message.model, message.n, list(message.stop.list.items)) == ("m", 1, ["a"])
    assert message.messages[0].content.parts.parts[0].text == "t"
    assert json.loads(message.tools[0].function.parameters) == {"type": "object"}
    assert not message.HasField("extra_json")


@thorough
@given(fitting(REQUEST))
def test_only_what_a_field_cannot_hold_is_in_extra_json(value: Any) -> None:
    """check_extra accepts whatever the strict codec itself makes."""
    chat_request.check_extra(chat_request.from_json(json.dumps(value).encode()))
