"""How many messages a chat request may cost at most, before anybody is asked. Pure.

A token of text is at least one byte, so the request's size bounds the prompt. What a model reads from elsewhere (an
image by address, a file by id, sound, the web) has no such bound but the model's own, the context window.
"""

import msgspec

from quillgate.v1.chat_completion_pb2 import ChatCompletionRequest, ContentPart
from quillgate.v1.text_completion_pb2 import TextCompletionRequest
from quillgate_core.catalogue import Model
from quillgate_core.counting import TOKENS_PER_MESSAGE, messages_for_tokens

MIN_OUTPUT_TOKENS = 256
"""Near the allowance an answer is shortened to fit, but not below this: then the request is refused."""

IMAGE_TOKENS = 16_384
"""Most tokens that an image by address costs with any provider known to us."""

_TEXT_PARTS = frozenset({"text", "refusal", "image_url"})
"""Kinds of parts whose tokens are bounded; a kind that is not typed here may be a video."""

_CALLER_TOOLS = frozenset({"function", "custom"})
"""Kinds of tools that the caller runs; any other kind the provider runs, and reads the results itself."""


class ChatHold(msgspec.Struct, frozen=True):
    """The bounds of one request, in tokens and messages."""

    prompt_tokens: int
    output_tokens: int
    choices: int
    hold_messages: int
    min_hold_messages: int
    lowered_output_tokens: int | None
    """The output limit to send instead of the request's own, which is above the model's; None: it is not."""

    @property
    def hold_tokens(self) -> int:
        """An upper bound of its tokens."""
        return self.prompt_tokens + self.output_tokens * self.choices

    @property
    def min_hold_tokens(self) -> int:
        """The same with the shortest answer that is worth while."""
        return self.prompt_tokens + min(self.output_tokens, MIN_OUTPUT_TOKENS) * self.choices

    def output_tokens_within(self, held_messages: int, held_tokens: int | None = None) -> int | None:
        """Returns the output limit per choice that keeps the request within a hold of at least `min_hold_messages`.

        So it does within `held_tokens`, of at least `min_hold_tokens`, unless that is None. None if both are the whole
        ones, which need no other limit.
        """
        tokens = self.hold_tokens
        if held_messages < self.hold_messages:
            tokens = held_messages * TOKENS_PER_MESSAGE
        if held_tokens is not None:
            tokens = min(tokens, held_tokens)
        if tokens >= self.hold_tokens:
            return None
        return (tokens - self.prompt_tokens) // self.choices


def chat_hold(request: ChatCompletionRequest, model: Model) -> ChatHold:
    """Returns the bounds of a valid request to a model."""
    prompt = min(_prompt_tokens(request, model), model.context_window)
    # Providers disagree on which of the two wins.
    asked = max(request.max_completion_tokens, request.max_tokens) or model.max_output_tokens
    return _hold(prompt, asked, max(1, request.n), model)


def text_hold(request: TextCompletionRequest, model: Model, *, prompts: int, prompt_tokens: int) -> ChatHold:
    """Returns the bounds of a valid request to continue `prompts` texts of at most `prompt_tokens` in all."""
    asked = request.max_tokens if request.HasField("max_tokens") else model.max_output_tokens
    choices = prompts * max(1, request.n, request.best_of)
    return _hold(min(prompt_tokens, model.context_window * prompts), asked, choices, model)


def _hold(prompt: int, asked: int, choices: int, model: Model) -> ChatHold:
    output = min(asked, model.max_output_tokens)
    smallest = min(output, MIN_OUTPUT_TOKENS)
    return ChatHold(
        prompt_tokens=prompt,
        output_tokens=output,
        choices=choices,
        hold_messages=messages_for_tokens(prompt + output * choices),
        min_hold_messages=messages_for_tokens(prompt + smallest * choices),
        lowered_output_tokens=output if output < asked else None,
    )


def _prompt_tokens(request: ChatCompletionRequest, model: Model) -> int:
    if request.HasField("web_search_options") or any(tool.type not in _CALLER_TOOLS for tool in request.tools):
        return model.context_window
    parts = [part for message in request.messages for part in message.content.parts.parts]
    return request.ByteSize() + sum(_unseen_tokens(part, model) for part in parts)


def _unseen_tokens(part: ContentPart, model: Model) -> int:
    """Tokens that a part may cost beyond its own bytes."""
    if part.HasField("image_url"):
        return IMAGE_TOKENS
    if part.HasField("file") or part.HasField("input_audio") or part.type not in _TEXT_PARTS:
        return model.context_window
    return 0
