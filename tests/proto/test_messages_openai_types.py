"""The messages against the official `openai` package: our answers are its types, and its members are our fields."""

import json
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import typing_extensions
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from openai.types.chat import ChatCompletion, ChatCompletionChunk, completion_create_params
from proto.json_strategies import is_array, is_map, is_raw, is_union, members
from pydantic import BaseModel

from quillgate.v1 import chat_completion_pb2 as chat
from quillgate_codec import chat_answer, chat_chunk

CORPUS = Path(__file__).parent / "corpus"

NOT_TYPED: dict[str, str] = {}
"""Members of the official types without a field of ours, each with the reason."""


def official_members(annotation: Any) -> dict[str, Any]:
    """The members of an official request TypedDict or answer model, with their annotations."""
    if typing_extensions.is_typeddict(annotation):
        return typing_extensions.get_type_hints(annotation)
    return {name: field.annotation for name, field in annotation.model_fields.items()}


def is_object(annotation: Any) -> bool:
    """Tells whether the annotation is a TypedDict or a model, of which the members are known."""
    return typing_extensions.is_typeddict(annotation) or (
        isinstance(annotation, type) and issubclass(annotation, BaseModel)
    )


def alternatives(annotation: Any) -> Iterator[Any]:
    """Yields the annotation without unions, aliases and markers such as Required and Annotated."""
    origin = typing.get_origin(annotation)
    arguments = typing.get_args(annotation)
    if isinstance(annotation, typing.TypeAliasType if hasattr(typing, "TypeAliasType") else ()):
        yield from alternatives(annotation.__value__)
    elif origin in (typing.Annotated, typing_extensions.Required, typing_extensions.NotRequired):
        yield from alternatives(arguments[0])
    elif origin in (typing.Union, types.UnionType):
        for argument in arguments:
            yield from alternatives(argument)
    else:
        yield annotation


def objects_at(annotation: Any, field: FieldDescriptor) -> Iterator[tuple[Any, Descriptor]]:
    """Yields the official object types under a field, each with our message for it; none in maps and raw JSON."""
    message = field.message_type
    if message is None or is_map(field) or is_raw(field):
        return
    yield from objects_as(annotation, message)


def objects_as(annotation: Any, message: Descriptor) -> Iterator[tuple[Any, Descriptor]]:
    """Yields the official object types of an annotation, each with the message that stands for it."""
    for single in alternatives(annotation):
        if is_object(single):
            yield single, object_case(message)
        elif typing.get_origin(single) not in (None, Literal, dict):  # a list of some kind
            for argument in typing.get_args(single):
                yield from objects_as(argument, item_case(message))


def object_case(message: Descriptor) -> Descriptor:
    """The message of a JSON object: the message itself, or the case of a union."""
    return case_of(message, array=False) if is_union(message) else message


def item_case(message: Descriptor) -> Descriptor:
    """The message of a JSON array's items: the message itself for a repeated field, or that of a wrapper or case."""
    message = case_of(message, array=True) if is_union(message) else message
    item = message.fields[0].message_type if is_array(message) else message
    return item if item is not None else message


def case_of(union: Descriptor, *, array: bool) -> Descriptor:
    """The case of a union that is an array, or an object."""
    cases = [field.message_type for field in union.fields if field.message_type is not None]
    return next(case for case in cases if is_array(case) == array)


def untyped(annotation: Any, message: Descriptor, path: str, seen: set[tuple[str, str]]) -> Iterator[str]:
    """Yields the paths of official members for which the message has no field, all the way down."""
    key = (f"{annotation.__module__}.{annotation.__qualname__}", message.full_name)
    if key in seen:
        return
    seen.add(key)
    known = members(message)
    for name, inner in official_members(annotation).items():
        at = f"{path}.{name}"
        if name not in known:
            yield at
            continue
        for nested, nested_message in objects_at(inner, known[name]):
            yield from untyped(nested, nested_message, at, seen)


ROOTS: list[tuple[Any, Descriptor]] = [
    (completion_create_params.CompletionCreateParamsNonStreaming, chat.ChatCompletionRequest.DESCRIPTOR),
    (completion_create_params.CompletionCreateParamsStreaming, chat.ChatCompletionRequest.DESCRIPTOR),
    (ChatCompletion, chat.ChatCompletion.DESCRIPTOR),
    (ChatCompletionChunk, chat.ChatCompletionChunk.DESCRIPTOR),
]


@pytest.mark.parametrize(("official", "message"), ROOTS, ids=lambda item: getattr(item, "__name__", ""))
def test_every_official_member_has_a_field(official: Any, message: Descriptor) -> None:
    """Whatever OpenAI's own client can send or receive is typed in the contract, at every level."""
    found = set(untyped(official, message, official.__name__, set()))
    assert found - set(NOT_TYPED) == set()


def test_the_walk_reaches_the_depths() -> None:
    """The test above does not pass by stopping early: these nested official types were compared."""
    seen: set[tuple[str, str]] = set()
    for official, message in ROOTS:
        list(untyped(official, message, "", seen))
    compared = {(name.rpartition(".")[2], message.rpartition(".")[2]) for name, message in seen}
    assert {
        ("FileFile", "FileInput"),
        ("ImageURL", "ImageUrl"),
        ("FunctionDefinition", "Function"),
        ("JSONSchema", "JsonSchemaFormat"),
        ("TopLogprob", "TopLogprob"),
        ("AnnotationURLCitation", "UrlCitation"),
        ("ChoiceDeltaToolCallFunction", "FunctionCall"),
        ("PromptTokensDetails", "PromptTokensDetails"),
    } <= compared


def token_logprobs() -> chat.Logprobs:
    """Log probabilities with everything set."""
    top = chat.TopLogprob(token="Hei", logprob=-1, bytes=[72])
    whole = chat.TokenLogprob(token="Hei", logprob=-0.5, bytes=[72], top_logprobs=[top])
    return chat.Logprobs(content=[whole], refusal=[whole])


def full_usage() -> chat.CompletionUsage:
    """Usage with every detail."""
    return chat.CompletionUsage(
        prompt_tokens=10,
        completion_tokens=5,
        total_tokens=15,
        prompt_tokens_details=chat.PromptTokensDetails(cached_tokens=4, audio_tokens=0),
        completion_tokens_details=chat.CompletionTokensDetails(reasoning_tokens=2, accepted_prediction_tokens=1),
    )


def full_message() -> chat.ChatMessage:
    """An assistant's message with a tool call of each kind, audio and a citation."""
    function = chat.ToolCall(id="call_1", type="function", function=chat.FunctionCall(name="f", arguments='{"a": 1}'))
    custom = chat.ToolCall(id="call_2", type="custom", custom=chat.CustomToolCall(name="g", input="x"))
    citation = chat.UrlCitation(start_index=0, end_index=3, title="T", url="https://example.com")
    return chat.ChatMessage(
        role="assistant",
        content=chat.ChatContent(text="Hei!"),
        tool_calls=[function, custom],
        audio=chat.Audio(id="a", data="UklGRg==", expires_at=1_700_000_100, transcript="Hei"),
        annotations=[chat.Annotation(type="url_citation", url_citation=citation)],
    )


def test_a_filled_answer_is_an_official_answer() -> None:
    """OpenAI's own type accepts our answer strictly, and reads every member of it."""
    choice = chat.Choice(index=0, message=full_message(), logprobs=token_logprobs(), finish_reason="tool_calls")
    answer = chat.ChatCompletion(
        id="chatcmpl-1",
        object="chat.completion",
        created=1_700_000_000,
        model="m",
        choices=[choice],
        usage=full_usage(),
    )
    answer.service_tier, answer.system_fingerprint = "default", "fp"
    data = chat_answer.to_json(answer)
    parsed = ChatCompletion.model_validate_json(data, strict=True)
    assert json.loads(parsed.model_dump_json(exclude_unset=True)) == json.loads(data)
    assert parsed.choices[0].message.tool_calls is not None
    assert [call.type for call in parsed.choices[0].message.tool_calls] == ["function", "custom"]


def test_a_bare_answer_is_an_official_answer() -> None:
    """An answer with no more than the required members has the nulls that the official type insists on."""
    answer = chat.ChatCompletion(id="c", object="chat.completion", created=1, model="m")
    answer.choices.add(index=0, finish_reason="stop", message=chat.ChatMessage(role="assistant"))
    parsed = ChatCompletion.model_validate_json(chat_answer.to_json(answer), strict=True)
    assert parsed.choices[0].message.content is None
    assert {"content", "refusal"} <= parsed.choices[0].message.model_fields_set
    assert "logprobs" in parsed.choices[0].model_fields_set


def test_filled_chunks_are_official_chunks() -> None:
    """OpenAI's own type accepts text, tool call, finish and usage chunks strictly, with finish_reason always there."""
    call = chat.ToolCall(index=0, id="c", type="function", function=chat.FunctionCall(name="f", arguments=""))
    choices = [
        chat.ChunkChoice(index=0, delta=chat.ChatDelta(role="assistant", content=""), logprobs=token_logprobs()),
        chat.ChunkChoice(index=0, delta=chat.ChatDelta(tool_calls=[call])),
        chat.ChunkChoice(index=0, delta=chat.ChatDelta(), finish_reason="stop"),
    ]
    first = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    for choice in choices:
        chunk = chat.ChatCompletionChunk(**first, choices=[choice])  # type: ignore[arg-type]
        parsed = ChatCompletionChunk.model_validate_json(chat_chunk.to_json(chunk), strict=True)
        assert {"delta", "finish_reason", "logprobs"} <= parsed.choices[0].model_fields_set
    last = chat.ChatCompletionChunk(**first, usage=full_usage(), extra_json=b'{"choices": []}')  # type: ignore[arg-type]
    parsed = ChatCompletionChunk.model_validate_json(chat_chunk.to_json(last), strict=True)
    assert parsed.choices == []
    assert parsed.usage is not None


@pytest.mark.parametrize("name", ["answer_openai", "answer_openai_tools_audio"])
def test_an_official_answer_stays_one(name: str) -> None:
    """What OpenAI answers is still what its own client reads after it went through our messages."""
    data = (CORPUS / f"{name}.json").read_bytes()
    before = ChatCompletion.model_validate_json(data)
    assert ChatCompletion.model_validate_json(chat_answer.to_json(chat_answer.from_json(data))) == before
