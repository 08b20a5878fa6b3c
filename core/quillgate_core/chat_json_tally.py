"""Follows a chat answer that is and stays JSON, as ChatTally follows messages, by the same rules.

For callers that pass JSON on, and providers that answer in OpenAI's: decoded values come in, written ones go out. What
ChatTally says of misbehaving providers holds here, and the tests of both are the same. Pure, no I/O.
"""

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from quillgate.v1.chat_completion_pb2 import ChatCompletionChunk, ChatCompletionRequest, ChunkChoice
from quillgate_codec import Codec, chat_answer, chat_chunk, load_json
from quillgate_core.chat_progress import ChatProgress, estimate
from quillgate_core.chat_tally import ChatTally
from quillgate_core.counting import Usage, sane
from quillgate_core.reservation import UsageSource

_SAID: Final[dict[str, type]] = {
    **dict.fromkeys(("content", "refusal", "reasoning_content", "reasoning"), str),
    **dict.fromkeys(("tool_calls", "annotations", "reasoning_details"), list),
    **dict.fromkeys(("function_call", "audio"), dict),
}
"""What a piece can say beside its role, and of which kind it must be to say anything."""

_FIELD_BYTES = 2
"""What a message needs for a text besides its own bytes: estimates are the same for both tallies."""

_dumps = msgspec.json.Encoder().encode
_complete_choice = Codec(ChunkChoice, answers=True).complete


def usage_of(usage: dict[str, Any]) -> Usage:
    """Returns the metered part; in OpenAI's convention the prompt tokens include the cached ones."""
    details = usage.get("prompt_tokens_details")
    if type(details) is not dict:
        return Usage(_whole(usage.get("prompt_tokens")), 0, _whole(usage.get("completion_tokens")))
    prompt, cached = _whole(usage.get("prompt_tokens")), _whole(details.get("cached_tokens"))
    written = _whole(details.get("cache_write_tokens"))
    # A provider that says nonsense of them has said nothing: only the cost depends on them.
    cache_write_tokens = min(max(written, 0), max(0, prompt - cached))
    return Usage(prompt, cached, _whole(usage.get("completion_tokens")), cache_write_tokens=cache_write_tokens)


class JsonChatTally(ChatProgress[dict[str, Any]]):
    """The state of one stream; `take` each batch of decoded chunks in order, which it changes, then `finish`."""

    _usage_of = usage_of
    _last: dict[str, Any] | None = None
    _last_bytes = 0
    _frame: tuple[bytes, bytes, int] | None = None

    def take(self, chunks: Iterable[dict[str, Any] | bytes]) -> list[bytes]:
        """Returns the chunks to pass on, written; may be none. Bytes are what JsonChatProvider says of them."""
        written = []
        for chunk in chunks:
            if isinstance(chunk, bytes):
                written.append(self._repeat(chunk))
            elif self._take(chunk):
                self._last, self._frame = chunk, None
                written.append(_dumps(chunk))
        return written

    def _repeat(self, words: bytes) -> bytes:
        """Returns the last chunk once more, with other words."""
        before, after, frame_bytes = self._frame or self._learn()
        said_bytes = len(words) if b"\\" not in words else len(load_json(b'"%b"' % words).encode())
        self._output_bytes += frame_bytes + said_bytes
        return before + words + after

    def _learn(self) -> tuple[bytes, bytes, int]:
        """Returns what is before and after the words in the last chunk, and what its delta says besides."""
        assert self._last is not None
        (choice,) = self._last["choices"]
        delta = choice["delta"]
        frame_bytes = self._last_bytes - len(delta["content"].encode("utf-8", "replace"))
        delta.pop("role", None)
        delta["content"] = ""
        before, mark, after = _dumps(self._last).partition(b'"content":"')
        self._frame = before + mark, after, frame_bytes
        return self._frame

    def _take(self, chunk: dict[str, Any]) -> bool:
        choices = _choices(chunk)
        usage = chunk.pop("usage", None)
        if type(usage) is dict and charged_usage(usage) is not None:
            self._reported = usage
            self._reported_bytes = self._output_bytes + sum(_size(choice.get("delta")) for choice in choices)
        if self._finished:
            choices = chunk["choices"] = [choice for choice in choices if not self._is_repeated_end(choice)]
        if not choices:
            return False
        chunk.pop("error", None)
        if not self._id:
            self._identify(chunk)
        chunk["id"] = self._id
        chunk["object"] = "chat.completion.chunk"
        chunk["created"] = self._created
        chunk["model"] = self._model
        if self._include_usage:
            chunk["usage"] = None
        self.started = True
        for choice in choices:
            self._take_choice(choice)
            if choice["logprobs"] is not None:
                _complete_choice(choice)
        return True

    def _identify(self, chunk: dict[str, Any]) -> None:
        self.upstream_id = _text(chunk.get("id"))
        self._id = self.upstream_id or self._fallback_id
        self._created = _whole(chunk.get("created")) or self._created

    def _is_repeated_end(self, choice: dict[str, Any]) -> bool:
        """Tells a choice that has ended and says nothing more: some providers send one more to carry the usage."""
        if _whole(choice.get("index")) not in self._finished or type(choice.get("logprobs")) is dict:
            return False
        delta = choice.get("delta")
        return type(delta) is not dict or not any(
            item and type(item) is _SAID.get(name) for name, item in delta.items()
        )

    def _take_choice(self, choice: dict[str, Any]) -> None:
        index = choice.get("index")
        if type(index) is not int:
            index = choice["index"] = _whole(index)
        delta = choice.get("delta")
        if type(delta) is not dict:
            delta = choice["delta"] = {}
        self._last_bytes = _size(delta)
        self._output_bytes += self._last_bytes
        if "logprobs" not in choice:
            choice["logprobs"] = None
        if index not in self._begun:
            self._begun.add(index)
            delta["role"] = _text(delta.get("role")) or "assistant"
        else:
            delta.pop("role", None)  # clients that join the pieces of a delta would join the roles too
        if _text(choice.get("finish_reason")) and index not in self._finished:
            self._finished.add(index)
        else:
            choice["finish_reason"] = None  # some providers send "" until the end, or the reason in every chunk

    def last(self) -> list[bytes]:
        """Returns the chunk that carries the usage, when the client asked for it."""
        if not self._include_usage:
            return []
        usage = reported(self.usage()[0]) if self._reported is None else whole_numbers(self._reported)
        head = {"id": self._id, "object": "chat.completion.chunk", "created": self._created, "model": self._model}
        return [_dumps({**head, "choices": [], "usage": usage})]


class WrittenChatTally:
    """A ChatTally whose chunks are written as JSON, for providers that answer in messages."""

    def __init__(self, tally: ChatTally, *, include_usage: bool) -> None:
        self._tally = tally
        self._include_usage = include_usage
        self.finish = tally.finish
        self.usage = tally.usage

    @property
    def started(self) -> bool:
        """Whether the caller has been given any output."""
        return self._tally.started

    @property
    def upstream_id(self) -> str:
        """The provider's own id of the answer."""
        return self._tally.upstream_id

    def take(self, chunks: Iterable[ChatCompletionChunk]) -> list[bytes]:
        """Returns the chunks to pass on, written; may be none."""
        return [self._write(chunk) for chunk in self._tally.take(chunks)]

    def last(self) -> list[bytes]:
        """Returns the chunk that carries the usage, when the client asked for it."""
        return [self._write(chunk) for chunk in self._tally.last()]

    def failure(self, error: Exception) -> list[bytes]:
        """Returns nothing: an error after chunks is the caller's to tell."""
        return []

    def _write(self, chunk: ChatCompletionChunk) -> bytes:
        value = chat_chunk.to_value(chunk)
        if self._include_usage:
            value.setdefault("usage", None)
        return _dumps(value)


def clean_answer_value(
    answer: dict[str, Any], request: ChatCompletionRequest, *, fallback_id: str, created: int, model: str = ""
) -> tuple[Usage, UsageSource]:
    """Makes a whole answer, with a list of choices that are objects, a clean OpenAI answer; returns what it used."""
    answer["id"] = _text(answer.get("id")) or fallback_id
    answer["object"] = "chat.completion"
    answer["created"] = _whole(answer.get("created")) or created
    answer["model"] = model or request.model
    for position, choice in enumerate(answer["choices"]):
        if type(choice.get("index")) is not int:
            choice["index"] = position if choice.get("index") is None else _whole(choice["index"])
        message = choice.get("message")
        if type(message) is not dict:
            message = choice["message"] = {}
        message["role"] = _text(message.get("role")) or "assistant"
    chat_answer.complete(answer)
    usage = answer.get("usage")
    if type(usage) is dict and (charged := charged_usage(usage)) is not None:
        whole_numbers(usage)
        return charged, "provider"
    used = estimate(request.ByteSize(), sum(_size(choice["message"]) for choice in answer["choices"]))
    answer["usage"] = reported(used)
    return used, "estimate"


def write_answer(answer: dict[str, Any]) -> bytes:
    """Returns a clean answer as JSON text."""
    return _dumps(answer)


def charged_usage(usage: dict[str, Any]) -> Usage | None:
    """Returns the metered part; None for placeholders (all zero) and nonsense (negative, cached > prompt)."""
    used = usage_of(usage)
    return used if used != Usage() and not sane(used)[1] else None


def reported(usage: Usage) -> dict[str, Any]:
    """Returns a usage in OpenAI's form."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def whole_numbers(usage: dict[str, Any]) -> dict[str, Any]:
    """Writes whole numbers of a usage as such, in place: typed clients do not read 12.0 as a number of tokens."""
    for name, item in usage.items():
        kind = type(item)
        if kind is int:
            continue
        if kind is float and item.is_integer():
            usage[name] = int(item)
        elif kind is dict:
            whole_numbers(item)
    return usage


def _choices(chunk: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the choices of a chunk; none when they are no list of objects."""
    choices = chunk.get("choices")
    if type(choices) is list:
        for choice in choices:
            if type(choice) is not dict:
                break
        else:
            return choices
    chunk["choices"] = []
    return []


def _text(value: Any) -> str:
    return value if type(value) is str else ""


def _whole(value: Any) -> int:
    """Returns a whole number that fits the contract's, 0 for anything else."""
    if type(value) is not int:
        if type(value) is not float or not value.is_integer():
            return 0
        value = int(value)
    return value if -(2**63) <= value < 2**63 else 0


def _size(said: Any) -> int:
    """Returns about how many bytes a delta or a message says."""
    if type(said) is not dict:
        return 0
    size = 0
    for item in said.values():
        if type(item) is str:
            size += _FIELD_BYTES + (len(item) if item.isascii() else len(item.encode("utf-8", "replace")))
        else:
            size += len(_dumps(item))
    return size
