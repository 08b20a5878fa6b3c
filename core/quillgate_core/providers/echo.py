"""A diagnostic model without any network: it answers with the last user message, so a fresh install has an answer.

It behaves as a real provider does: the same order of chunks, usage, limits, several choices and tool calls. Its tokens
are words: each run of other characters with the white space before it, trailing white space being one more. A prompt's
tokens are the words of its messages' texts; a tool call is one token. It must not become clever.
"""

import asyncio
import re
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass
from typing import Final

from quillgate.v1.chat_completion_pb2 import (
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionRequest,
    ChatDelta,
    ChatMessage,
    Choice,
    ChunkChoice,
    CompletionUsage,
    CustomToolCall,
    FunctionCall,
    Tool,
    ToolCall,
)
from quillgate_core.errors import InvalidRequest
from quillgate_core.upstream import PreparedChat, Traits

MODEL_ID: Final = "quillgate/echo"
MODEL_DESCRIPTION: Final = "Answers with your last message, word by word. A diagnostic tool, no language model."

_MAX_CHOICES: Final = 128
"""How the contract writes an empty list, which the chunk with the usage must have."""
_WORD: Final = re.compile(r"\s*\S+|\s+\Z")


@dataclass(frozen=True, slots=True)
class _Answer:
    """What every choice says: words, or a call instead."""

    words: list[str]
    tool_call: ToolCall | None
    finish_reason: str


class Echo:
    """A ChatProvider that answers with the text of the last user message, or of the tool result that came after it.

    A conversation without either gets an empty answer. If `tool_choice` is `required` or names a tool, that tool (the
    first one) is called without arguments, until its result is in the conversation: so a client's tool loop can be
    tried and comes to an end. `clock` returns seconds since 1970 and dates the answers.
    """

    traits = Traits(
        cached_tokens="inside",
        cancel_stops_bill=True,
        supports=frozenset({"stream", "tools", "images", "files", "audio", "json_object", "json_schema", "choices"}),
    )

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock

    @property
    def name(self) -> str:
        """The provider's name in the catalogue, errors and ledger."""
        return "echo"

    def prepare_chat(
        self, request: ChatCompletionRequest, *, model: str, stream: bool, max_output_tokens: int | None
    ) -> PreparedChat:
        """Packs the request; raises InvalidRequest for `n` out of range and a tool choice that names no given tool."""
        if request.HasField("n") and not 1 <= request.n <= _MAX_CHOICES:
            raise InvalidRequest(
                f"Invalid value for 'n': it must be 1 to {_MAX_CHOICES}.", param="n", code="invalid_value"
            )
        _chosen_tool(request)
        packed = ChatCompletionRequest()
        packed.CopyFrom(request)
        packed.model = model
        if max_output_tokens is not None:
            packed.max_completion_tokens = max_output_tokens
        return PreparedChat(body=packed.SerializeToString(), stream=stream)

    async def create_chat(self, prepared: PreparedChat) -> ChatCompletion:
        """Returns the whole answer."""
        request = ChatCompletionRequest.FromString(prepared.body)
        answer = _answer(request)
        message = ChatMessage(role="assistant")
        if answer.tool_call is not None:
            message.tool_calls.append(answer.tool_call)
        else:
            message.content.text = "".join(answer.words)
        count = _choice_count(request)
        choices = [Choice(index=index, message=message, finish_reason=answer.finish_reason) for index in range(count)]
        return ChatCompletion(
            id=_new_id(),
            object="chat.completion",
            created=int(self._clock()),
            model=request.model,
            choices=choices,
            usage=_usage(request, answer),
        )

    async def stream_chat(self, prepared: PreparedChat) -> AsyncGenerator[list[ChatCompletionChunk], None]:
        """Yields the answer a word at a time, the choices one after the other, and last the usage."""
        request = ChatCompletionRequest.FromString(prepared.body)
        answer = _answer(request)
        head = ChatCompletionChunk(
            id=_new_id(), object="chat.completion.chunk", created=int(self._clock()), model=request.model
        )
        for index in range(_choice_count(request)):
            for choice in _chunk_choices(index, answer):
                chunk = ChatCompletionChunk(choices=[choice])
                chunk.MergeFrom(head)
                yield [chunk]
                # A long answer must leave other requests, and its own cancellation, their turn.
                await asyncio.sleep(0)
        head.usage.CopyFrom(_usage(request, answer))
        yield [head]


def _answer(request: ChatCompletionRequest) -> _Answer:
    tool = _chosen_tool(request)
    if tool is not None and (not request.messages or request.messages[-1].role != "tool"):
        return _Answer([], _call(tool), "tool_calls")
    words = _words(_text_to_echo(request))
    limit = _max_tokens(request)
    if limit is not None and len(words) > limit:
        return _Answer(words[: max(limit, 0)], None, "length")
    return _Answer(words, None, "stop")


def _chunk_choices(index: int, answer: _Answer) -> Iterator[ChunkChoice]:
    """One alternative as OpenAI streams it: the role, what is said, the reason for the end."""
    if answer.tool_call is not None:
        call = ToolCall(index=0)
        call.MergeFrom(answer.tool_call)
        yield ChunkChoice(index=index, delta=ChatDelta(role="assistant"))
        yield ChunkChoice(index=index, delta=ChatDelta(tool_calls=[call]))
    else:
        yield ChunkChoice(index=index, delta=ChatDelta(role="assistant", content=""))
        for word in answer.words:
            yield ChunkChoice(index=index, delta=ChatDelta(content=word))
    yield ChunkChoice(index=index, delta=ChatDelta(), finish_reason=answer.finish_reason)


def _usage(request: ChatCompletionRequest, answer: _Answer) -> CompletionUsage:
    prompt_tokens = sum(len(_words(_text_of(message))) for message in request.messages)
    completion_tokens = _choice_count(request) * (1 if answer.tool_call is not None else len(answer.words))
    return CompletionUsage(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        total_tokens=prompt_tokens + completion_tokens,
    )


def _text_to_echo(request: ChatCompletionRequest) -> str:
    for message in reversed(request.messages):
        if message.role in ("user", "tool"):
            return _text_of(message)
    return ""


def _text_of(message: ChatMessage) -> str:
    """The message's text; its text parts are joined as they are, other parts have none."""
    if message.content.WhichOneof("value") == "parts":
        return "".join(part.text for part in message.content.parts.parts)
    return message.content.text


def _words(text: str) -> list[str]:
    """Splits the text into pieces that give exactly it when joined."""
    return _WORD.findall(text)


def _max_tokens(request: ChatCompletionRequest) -> int | None:
    if request.HasField("max_completion_tokens"):
        return request.max_completion_tokens
    return request.max_tokens if request.HasField("max_tokens") else None


def _choice_count(request: ChatCompletionRequest) -> int:
    return request.n if request.HasField("n") else 1


def _chosen_tool(request: ChatCompletionRequest) -> Tool | None:
    """The tool that must be called, if any; raises InvalidRequest when it is not among those of the request."""
    choice = request.tool_choice
    form = choice.WhichOneof("value")
    if form == "mode" and choice.mode == "required":
        named = ""
    elif form == "named" and choice.named.type in ("function", "custom"):
        named = choice.named.function.name or choice.named.custom.name
    else:
        return None
    for tool in request.tools:
        if named in ("", tool.function.name, tool.custom.name):
            return tool
    raise InvalidRequest(
        "Invalid value for 'tool_choice': 'tools' has no such tool.", param="tool_choice", code="invalid_value"
    )


def _call(tool: Tool) -> ToolCall:
    call_id = f"call_{uuid.uuid4().hex[:24]}"
    if tool.type == "custom":
        return ToolCall(id=call_id, type="custom", custom=CustomToolCall(name=tool.custom.name, input=""))
    return ToolCall(id=call_id, type="function", function=FunctionCall(name=tool.function.name, arguments="{}"))


def _new_id() -> str:
    return f"chatcmpl-{uuid.uuid4().hex}"
