"""A conversation in OpenAI's form as the Messages API's `system` and `messages`. Pure.

System and developer texts, wherever they stand, become blocks of `system` in their order. The rest alternates: messages
of the same speaker become one turn, results of tools stand at the head of the user's turn that follows the calls, and
thoughts that a client sends back stand where the model had them. A conversation of system texts alone is asked as the
user's, because Anthropic wants at least one turn.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from quillgate.v1.chat_completion_pb2 import ChatMessage
from quillgate_codec import JsonError, load_json
from quillgate_core.errors import InvalidRequest
from quillgate_core.providers.anthropic_parts import Block, blocks_of, cache_control_of, members, text_blocks
from quillgate_core.providers.anthropic_thinking import Thought, thoughts_of

_TEXT_ONLY: Final = frozenset({"text"})
_THOUGHTS: Final = frozenset({"thinking", "redacted_thinking"})
_NOT_IN_IDS: Final = re.compile(r"[^A-Za-z0-9_-]")
INVALID_JSON: Final = "INVALID_JSON"
"""Under which Anthropic wants the arguments of a call that are no JSON object."""


@dataclass(slots=True)
class Conversation:
    """What becomes of the messages: blocks of `system`, and turns whose roles alternate."""

    system: list[Block] = field(default_factory=list)
    turns: list[dict[str, Any]] = field(default_factory=list)

    @property
    def is_within_unthought_loop(self) -> bool:
        """Whether the last calls of tools came without a thought, after which thinking cannot be switched on."""
        said: list[Block] = next((turn["content"] for turn in reversed(self.turns) if turn["role"] == "assistant"), [])
        return any(block["type"] == "tool_use" for block in said) and said[0]["type"] not in _THOUGHTS


def conversation_of(messages: Iterable[ChatMessage]) -> Conversation:
    """Returns the conversation; raises InvalidRequest, naming the message, for what Claude cannot read."""
    builder = _Builder()
    for index, message in enumerate(messages):
        builder.add(message, f"messages[{index}]")
    made = builder.made
    if not made.turns:
        made.turns = [{"role": "user", "content": made.system}]
        made.system = []
    if not made.turns[0]["content"]:
        raise InvalidRequest("Invalid value: the messages say nothing.", param="messages", code="invalid_value")
    _strip_end(made.turns[-1])
    return made


class _Builder:
    """Adds one message after the other."""

    def __init__(self) -> None:
        self.made = Conversation()
        self._results = 0  # of the last turn, which stand before all else in it
        self._legacy_id = ""  # of the last call in the form that OpenAI has deprecated, which has none

    def add(self, message: ChatMessage, path: str) -> None:
        if message.role in ("system", "developer"):
            self.made.system += _marked(message, path, blocks_of(message.content, f"{path}.content", only=_TEXT_ONLY))
        elif message.role == "assistant":
            self._say("assistant", _marked(message, path, self._said(message, path)))
        elif message.role in ("tool", "function"):
            self._add_result(message, path)
        else:
            self._say("user", _marked(message, path, blocks_of(message.content, f"{path}.content")))

    def _say(self, role: str, blocks: list[Block]) -> None:
        if not blocks:
            return
        if not self._is_open(role):
            self.made.turns.append({"role": role, "content": []})
            self._results = 0
        self.made.turns[-1]["content"] += blocks

    def _is_open(self, role: str) -> bool:
        return bool(self.made.turns) and self.made.turns[-1]["role"] == role

    def _add_result(self, message: ChatMessage, path: str) -> None:
        call_id = message.tool_call_id or (self._legacy_id if message.role == "function" else "")
        if not call_id:
            param = f"{path}.tool_call_id"
            raise InvalidRequest(
                f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter"
            )
        extra = members(message.extra_json, path)
        result: Block = {"type": "tool_result", "tool_use_id": _id(call_id), **cache_control_of(extra)}
        if content := blocks_of(message.content, f"{path}.content", only=frozenset({"text", "image", "document"})):
            is_text = len(content) == 1 and content[0].keys() == {"type", "text"}
            result["content"] = content[0]["text"] if is_text else content
        if type(extra.get("is_error")) is bool:
            result["is_error"] = extra["is_error"]
        if not self._is_open("user"):
            self._say("user", [result])
        else:
            self.made.turns[-1]["content"].insert(self._results, result)
        self._results += 1

    def _said(self, message: ChatMessage, path: str) -> list[Block]:
        blocks = blocks_of(message.content, f"{path}.content", only=_TEXT_ONLY) + text_blocks(message.refusal)
        calls = [
            _tool_use(call.id, call.function.name, call.function.arguments)
            if call.HasField("function")
            else _tool_use(call.id, call.custom.name, msgspec.json.encode({"input": call.custom.input}).decode())
            for call in message.tool_calls
        ]
        if message.HasField("function_call"):
            self._legacy_id = f"call_{len(self.made.turns)}"
            calls.append(_tool_use(self._legacy_id, message.function_call.name, message.function_call.arguments))
        return _with_thoughts(thoughts_of(message, path), blocks, calls)


def _with_thoughts(thoughts: list[Thought], texts: list[Block], calls: list[Block]) -> list[Block]:
    """Puts thoughts back where they stood: within the text, or before a call."""
    blocks: list[Block] = []
    passed_characters, passed_calls = 0, 0
    for thought in thoughts:
        while texts and passed_characters + len(texts[0]["text"]) <= thought.after_characters:
            passed_characters += len(texts[0]["text"])
            blocks.append(texts.pop(0))
        if texts and (rest := thought.after_characters - passed_characters) > 0:
            blocks.append({"type": "text", "text": texts[0]["text"][:rest]})
            texts[0] = texts[0] | {"text": texts[0]["text"][rest:]}
            passed_characters += rest
        if thought.after_calls > passed_calls:
            blocks += texts + calls[passed_calls : thought.after_calls]
            texts, passed_calls = [], thought.after_calls
        blocks.append(thought.block)
    return [block for block in blocks + texts + calls[passed_calls:] if not _is_blank(block)]


def _is_blank(block: Block) -> bool:
    """Tells a text of white space alone, as splitting a text may leave one."""
    return block["type"] == "text" and not block["text"].strip()


def _tool_use(call_id: str, name: str, arguments: str) -> Block:
    return {"type": "tool_use", "id": _id(call_id), "name": name, "input": _input(arguments)}


def _input(arguments: str) -> Any:
    """The arguments to the last digit, as they are if they are a JSON object."""
    if not arguments or arguments.isspace():
        return {}
    data = arguments.encode("utf-8")
    try:
        is_object = type(load_json(data)) is dict
    except JsonError:
        is_object = False
    return msgspec.Raw(data) if is_object else {INVALID_JSON: arguments}


def _id(call_id: str) -> str:
    """Anthropic takes letters, digits, underscores and dashes; other providers' ids have more."""
    return _NOT_IN_IDS.sub("_", call_id)


def _marked(message: ChatMessage, path: str, blocks: list[Block]) -> list[Block]:
    """Puts the mark that a client set on the whole message on its last block."""
    if not blocks or blocks[-1]["type"] in _THOUGHTS:
        return blocks
    marks = cache_control_of(members(message.extra_json, path))
    return [*blocks[:-1], blocks[-1] | marks] if marks else blocks


def _strip_end(turn: dict[str, Any]) -> None:
    """Anthropic refuses to continue an answer that ends with white space."""
    last = turn["content"][-1]
    if turn["role"] == "assistant" and last["type"] == "text":
        last["text"] = last["text"].rstrip()
