"""What every vendor's answers become, whole and streamed: text, thoughts, calls of tools, and how an answer ends."""

import json

import pytest
from conformance.trial import Trial, asking
from conformance.vendor import Call, Content, End

from quillgate_codec import chat_answer, chat_chunk
from quillgate_core.errors import InvalidRequest

WORDS = ["Alpha", " beta", " gämma", " 日本", " 🦜", "\n\ndelta"]
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}}
    for name in ("weather", "clock")
]
#: Spaces and the order of members are the model's own and must stay.
ARGUMENTS = '{"city": "Zürich", "days":3, "deep": {"b": [1.0, null], "a": "\\n"}}'
CALLS = [Call("call_1", "weather", ARGUMENTS), Call("call_2", "clock", "{}")]
BOTH_WAYS = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


@BOTH_WAYS
async def test_text_arrives_as_it_was_written(trial: Trial, stream: bool) -> None:
    """The text is the vendor's to the last character, and ends with `stop`."""
    outcome = await trial.say(Content(words=WORDS), stream=stream)
    assert outcome.failure is None
    assert outcome.said.text == "".join(WORDS)
    assert outcome.said.ends == ["stop"]
    assert not outcome.said.calls


async def test_text_is_streamed_in_its_pieces(trial: Trial) -> None:
    """No two of the vendor's pieces are joined and none is split."""
    outcome = await trial.say(Content(words=WORDS), stream=True)
    pieces = [choice.delta.content for chunk in outcome.raw for choice in chunk.choices]
    assert [piece for piece in pieces if piece] == WORDS


async def test_chunks_have_openais_shape(trial: Trial) -> None:
    """One id, one created, the role once and first, one end, and the usage last and without choices."""
    outcome = await trial.say(Content(words=WORDS, calls=CALLS, end="tool_calls"), stream=True)
    assert outcome.failure is None
    chunks = outcome.clean
    assert len({chunk.id for chunk in chunks}) == 1 and chunks[0].id
    assert len({chunk.created for chunk in chunks}) == 1 and chunks[0].created > 0
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert {chunk.model for chunk in chunks} == {"public/model"}
    assert chunks[0].choices[0].delta.role == "assistant"
    assert outcome.said.roles == ["assistant"]
    assert outcome.said.ends == ["tool_calls"]
    assert [chunk.HasField("usage") for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert not chunks[-1].choices
    ends = [bool(choice.finish_reason) for chunk in chunks for choice in chunk.choices]
    assert ends == [False] * (len(ends) - 1) + [True]


@BOTH_WAYS
async def test_what_a_client_gets_can_be_written(trial: Trial, stream: bool) -> None:
    """Every chunk or answer is JSON after all, with the members that clients insist on."""
    outcome = await trial.say(Content(words=WORDS, calls=CALLS, end="tool_calls"), stream=stream)
    if stream:
        values = [json.loads(chat_chunk.to_json(chunk)) for chunk in outcome.clean]
        assert all(choice["index"] == 0 and "delta" in choice for value in values for choice in value["choices"])
        return
    assert outcome.answer is not None
    value = json.loads(chat_answer.to_json(outcome.answer))
    assert value["object"] == "chat.completion"
    assert value["id"] and value["created"] > 0
    assert value["choices"][0]["message"]["role"] == "assistant"
    assert value["usage"]["total_tokens"] == value["usage"]["prompt_tokens"] + value["usage"]["completion_tokens"]


@BOTH_WAYS
@pytest.mark.parametrize("calls", [CALLS[:1], CALLS], ids=["one", "parallel"])
@pytest.mark.parametrize("words", [[], ["Let me look."]], ids=["alone", "with-text"])
async def test_calls_of_tools_are_exact(trial: Trial, stream: bool, calls: list[Call], words: list[str]) -> None:
    """Each call has its own index, the vendor's id, its name, and arguments to the last character."""
    request = asking(tools=TOOLS, stream_options={"include_usage": True})
    outcome = await trial.say(Content(words=words, calls=calls, end="tool_calls"), stream=stream, request=request)
    assert outcome.failure is None
    assert outcome.said.text == "".join(words)
    assert outcome.said.ends == ["tool_calls"]
    assert sorted(outcome.said.calls) == list(range(len(calls)))
    for index, call in enumerate(calls):
        call_id, name, arguments = outcome.said.calls[index]
        assert call_id, "a client answers a call by its id"
        assert name == call.name
        assert json.loads(arguments) == json.loads(call.arguments)
        assert _is_exact(trial, call_id, arguments, call)


def _is_exact(trial: Trial, call_id: str, arguments: str, call: Call) -> bool:
    """A vendor whose calls have no ids, or whose arguments are JSON and no text, cannot be held to the letter."""
    answer = b"".join(step for step in trial.vendor.answer(Content(calls=[call])).steps if isinstance(step, bytes))
    has_id = call.id.encode() in answer
    has_text = json.dumps(call.arguments, ensure_ascii=False).encode() in answer
    return (not has_id or call_id == call.id) and (not has_text or arguments == call.arguments)


@BOTH_WAYS
async def test_each_call_has_an_id_of_its_own(trial: Trial, stream: bool) -> None:
    """Two calls of the same tool are told apart."""
    twice = [Call("call_1", "clock", "{}"), Call("call_2", "clock", "{}")]
    outcome = await trial.say(Content(calls=twice, end="tool_calls"), stream=stream, request=asking(tools=TOOLS))
    ids = [call[0] for call in outcome.said.calls.values()]
    assert len(set(ids)) == 2 and all(ids)


@BOTH_WAYS
async def test_a_call_without_arguments_has_an_empty_object(trial: Trial, stream: bool) -> None:
    """Arguments are JSON text even if there are none: clients decode them."""
    call = Call("call_1", "clock", "{}")
    outcome = await trial.say(Content(calls=[call], end="tool_calls"), stream=stream, request=asking(tools=TOOLS))
    assert json.loads(outcome.said.calls[0][2]) == {}


@BOTH_WAYS
async def test_thoughts_stand_apart_from_the_text(trial: Trial, stream: bool) -> None:
    """What a model thought is in `reasoning_content`, where clients look for it, and never in the text."""
    if not trial.supports("reasoning"):
        with pytest.raises(InvalidRequest):
            trial.provider().prepare_chat(
                asking(reasoning_effort="high"), model="m", stream=stream, max_output_tokens=None
            )
        return
    outcome = await trial.say(Content(words=WORDS, thought="First, some thought."), stream=stream)
    assert outcome.failure is None
    assert outcome.said.thought == "First, some thought."
    assert outcome.said.text == "".join(WORDS)


@BOTH_WAYS
@pytest.mark.parametrize("end", ["length", "content_filter"])
async def test_ends_have_openais_names(trial: Trial, stream: bool, end: End) -> None:
    """An answer that was cut by its limit or by a filter says so, in OpenAI's words, with what was said before."""
    outcome = await trial.say(Content(words=["Half"], end=end), stream=stream)
    assert outcome.failure is None
    assert (outcome.said.text, outcome.said.ends) == ("Half", [end])


@BOTH_WAYS
async def test_an_answer_may_be_empty(trial: Trial, stream: bool) -> None:
    """A model that has nothing to say is no failure."""
    outcome = await trial.say(Content(words=[]), stream=stream)
    assert outcome.failure is None
    assert (outcome.said.text, outcome.said.ends) == ("", ["stop"])
