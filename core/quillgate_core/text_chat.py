"""Text completions in terms of chat, for providers that speak only chat: pure translation, both ways.

Each prompt becomes the one user message of a chat request of its own. What means the same in chat passes on as it is,
unknown members too; `n` choices of prompt i are the choices i*n to i*n + n - 1. An output limit is left to whoever
sends the chat, and without one the model's own holds, not the 16 tokens of OpenAI's old models: a chat model cut off
after 16 tokens helps nobody. What chat has no words for is refused rather than left out.
"""

from collections.abc import Iterable
from typing import Any

from quillgate.v1.chat_completion_pb2 import ChatCompletion, ChatCompletionChunk, ChatCompletionRequest
from quillgate.v1.text_completion_pb2 import TextChoice, TextCompletion, TextCompletionRequest
from quillgate_codec import JsonError, chat_request, text_completion_request
from quillgate_core.errors import InvalidRequest
from quillgate_core.text_rules import invalid

MAX_CHAT_PROMPTS = 128
"""The most prompts of one request that are asked one by one."""

_TEXT_ONLY = ("prompt", "suffix", "echo", "best_of", "logprobs", "max_tokens", "stream", "stream_options")
_OURS = ("model", "messages")
_TEXT_END = {"tool_calls": "stop", "function_call": "stop"}


def prompts_of(request: TextCompletionRequest) -> list[str]:
    """Returns the texts of a valid request; raises InvalidRequest for tokens, which mean nothing to a chat."""
    if request.prompt.HasField("text"):
        return [request.prompt.text]
    items = request.prompt.list.items
    if not items[0].HasField("text"):
        message = "The model's provider takes prompts as text only, not as token ids."
        raise InvalidRequest(message, param="prompt", code="unsupported_value")
    if len(items) > MAX_CHAT_PROMPTS:
        raise invalid("prompt", f"expected at most {MAX_CHAT_PROMPTS} prompts, but got {len(items)} instead")
    return [item.text for item in items]


def chat_requests(request: TextCompletionRequest) -> list[ChatCompletionRequest]:
    """Returns a chat request for each prompt, without output limit; raises InvalidRequest for what chat cannot do."""
    prompts = prompts_of(request)
    _refuse_unsupported(request)
    try:
        template = chat_request.from_value(_chat_members(text_completion_request.to_value(request)))
        chat_request.check_extra(template)
    except JsonError as error:
        raise InvalidRequest(str(error), param=error.path, code=error.code) from None
    template.model = request.model
    return [_with_prompt(template, prompt) for prompt in prompts]


def pieces_of(chunks: Iterable[ChatCompletionChunk], *, first_index: int) -> list[TextCompletion]:
    """Returns chunks of one prompt's chat as pieces, its choices counted from `first_index`."""
    return [_piece(chunk, first_index) for chunk in chunks]


def answer_of(answer: ChatCompletion, *, first_index: int) -> TextCompletion:
    """Returns the whole answer to one prompt's chat, its choices counted from `first_index`."""
    text = TextCompletion(created=answer.created)
    for position, choice in enumerate(answer.choices):
        index = choice.index if choice.HasField("index") else position
        content = choice.message.content
        words = content.text or "".join(part.text or part.refusal for part in content.parts.parts)
        text.choices.append(_choice(first_index + index, words or choice.message.refusal, choice.finish_reason))
    _keep_account(answer, text)
    return text


def _piece(chunk: ChatCompletionChunk, first_index: int) -> TextCompletion:
    piece = TextCompletion(created=chunk.created)
    for choice in chunk.choices:
        words = choice.delta.content or choice.delta.refusal
        piece.choices.append(_choice(first_index + choice.index, words, choice.finish_reason))
    _keep_account(chunk, piece)
    return piece


def _choice(index: int, text: str, finish_reason: str) -> TextChoice:
    choice = TextChoice(index=index, text=text)
    if finish_reason:
        choice.finish_reason = _TEXT_END.get(finish_reason, finish_reason)
    return choice


def _keep_account(source: ChatCompletion | ChatCompletionChunk, target: TextCompletion) -> None:
    if source.HasField("usage"):
        target.usage.CopyFrom(source.usage)
    if source.HasField("system_fingerprint"):
        target.system_fingerprint = source.system_fingerprint


def _chat_members(value: dict[str, Any]) -> dict[str, Any]:
    """Returns what chat calls by the same name; nulls say nothing there either."""
    dropped = {*_TEXT_ONLY, *_OURS}
    return {name: item for name, item in value.items() if name not in dropped and item is not None}


def _refuse_unsupported(request: TextCompletionRequest) -> None:
    if request.suffix:
        raise _unsupported("suffix")
    if request.HasField("logprobs"):
        raise _unsupported("logprobs")
    if request.best_of > max(1, request.n):
        raise _unsupported("best_of")
    if request.HasField("max_tokens") and request.max_tokens < 1:
        raise invalid("max_tokens", "expected at least 1 for this model, but got 0 instead")


def _unsupported(param: str) -> InvalidRequest:
    message = f"Unsupported parameter: '{param}' is not supported with this model."
    return InvalidRequest(message, param=param, code="unsupported_parameter")


def _with_prompt(template: ChatCompletionRequest, prompt: str) -> ChatCompletionRequest:
    request = ChatCompletionRequest()
    request.CopyFrom(template)
    request.messages.add(role="user").content.text = prompt
    return request
