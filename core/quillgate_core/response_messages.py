"""A conversation in items as chat messages. Pure.

Chat has one assistant message where the Responses API has several items: thoughts, what is said, and parallel calls are
gathered into one, because providers refuse a tool's result that does not follow the message with its call.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from quillgate.v1.chat_completion_pb2 import ChatContent, ChatMessage, ContentPart, ToolCall
from quillgate.v1.response_pb2 import ResponseContent, ResponseItem, ResponsePart
from quillgate_codec import Codec, JsonError, load_json
from quillgate_core.response_input import kind_of
from quillgate_core.response_tools import chat_name, custom_arguments

_TEXT_PARTS = frozenset({"input_text", "output_text", "text", "summary_text", "reasoning_text"})
_chat_part = Codec(ContentPart, lenient=True)


class Transcript:
    """Takes items in order and gathers `messages`; what chat cannot say is named in `ignored`."""

    def __init__(self) -> None:
        self.messages: list[ChatMessage] = []
        self.ignored: list[str] = []
        self._thoughts = ""
        self._is_open = False
        """Whether the last message is an assistant's that may still get a call."""

    def add(self, item: ResponseItem, path: str) -> None:
        """Takes an item; `path` names it should it be left out, and is empty for items of earlier turns."""
        kind = kind_of(item)
        if kind == "message":
            self._add_message(item, path)
        elif kind in ("function_call", "custom_tool_call"):
            self._add_call(item, kind)
        elif kind in ("function_call_output", "custom_tool_call_output"):
            self._add_result(item, path)
        elif kind == "reasoning":
            self._add_reasoning(item)
        else:
            self._ignore(path, kind)

    def _add_message(self, item: ResponseItem, path: str) -> None:
        if item.role == "assistant":
            message = self._assistant(needs_content=True)
        else:
            self._end_assistant()
            # Servers other than OpenAI's do not know `developer`; OpenAI's takes `system` for it.
            role = "system" if item.role == "developer" else item.role
            message = ChatMessage(role=role)
            self.messages.append(message)
        content = self._content(item.content, path=f"{path}.content" if path else "")
        if content is not None:
            message.content.CopyFrom(
                _joined(content, "" if item.role == "assistant" else "\n", keep=item.role == "user")
            )

    def _add_call(self, item: ResponseItem, kind: str) -> None:
        call = ToolCall(id=item.call_id or item.id, type="function")
        call.function.name = chat_name(item.name, namespace_of(item))
        call.function.arguments = custom_arguments(item.input) if kind == "custom_tool_call" else item.arguments or "{}"
        self._assistant().tool_calls.append(call)

    def _add_result(self, item: ResponseItem, path: str) -> None:
        self._end_assistant()
        message = ChatMessage(role="tool", tool_call_id=item.call_id)
        content = self._content(item.output, path=f"{path}.output" if path else "")
        message.content.CopyFrom(_joined(content or ChatContent(text=""), "\n", keep=False))
        self.messages.append(message)

    def _add_reasoning(self, item: ResponseItem) -> None:
        """Keeps thoughts that can be read for the assistant message that they led to; encrypted ones say nothing."""
        thoughts = "".join(_texts(item.content)) or "\n\n".join(part.text for part in item.summary.parts)
        if thoughts:
            self._end_assistant()
            self._thoughts = thoughts

    def _assistant(self, *, needs_content: bool = False) -> ChatMessage:
        if not self._is_open or (needs_content and self.messages[-1].HasField("content")):
            self.messages.append(ChatMessage(role="assistant"))
            self._is_open = True
        if self._thoughts:
            self.messages[-1].reasoning_content = self._thoughts
            self._thoughts = ""
        return self.messages[-1]

    def _end_assistant(self) -> None:
        self._is_open = False
        self._thoughts = ""

    def _content(self, content: ResponseContent, *, path: str) -> ChatContent | None:
        form = content.WhichOneof("value")
        if form is None:
            return None
        if form == "text":
            return ChatContent(text=content.text)
        chat = ChatContent()
        chat.parts.SetInParent()
        for index, part in enumerate(content.parts.parts):
            made = _part(part)
            if made is None:
                self._ignore(f"{path}[{index}]" if path else "", part.type)
            else:
                chat.parts.parts.append(made)
        return chat

    def _ignore(self, path: str, kind: str) -> None:
        if path:
            self.ignored.append(f"{path}:{kind}")


def chat_messages(items: Sequence[ResponseItem], *, own_from: int) -> tuple[list[ChatMessage], list[str]]:
    """Returns the messages of a conversation, and what of the request's own items (from `own_from`) was left out."""
    transcript = Transcript()
    for index, item in enumerate(items):
        transcript.add(item, f"input[{index - own_from}]" if index >= own_from else "")
    return transcript.messages, transcript.ignored


def namespace_of(item: ResponseItem) -> str:
    """Returns the namespace of a called tool, as Codex sends it back; usually empty."""
    if not item.extra_json:
        return ""
    found = load_json(item.extra_json).get("namespace")
    return found if type(found) is str else ""


def _part(part: ResponsePart) -> ContentPart | None:
    """Returns a part as chat has it, None for one that chat does not know."""
    if part.type in _TEXT_PARTS:
        return ContentPart(type="text", text=part.text)
    if part.type == "refusal":
        return ContentPart(type="text", text=part.refusal)
    if part.type == "input_image" and part.HasField("image_url"):
        image = ContentPart(type="image_url")
        image.image_url.url = part.image_url
        if part.HasField("detail"):
            image.image_url.detail = part.detail
        return image
    if part.type in ("input_file", "input_image"):
        return _file(part)
    return _audio(part) if part.type == "input_audio" else None


def _file(part: ResponsePart) -> ContentPart | None:
    chat = ContentPart(type="file")
    if part.HasField("file_id"):
        chat.file.file_id = part.file_id
    elif part.HasField("file_data") or part.HasField("file_url"):
        # Chat has no member for addresses; servers that can fetch one take it in place of the data.
        chat.file.file_data = part.file_data or part.file_url
    else:
        return None
    if part.HasField("filename"):
        chat.file.filename = part.filename
    return chat


def _audio(part: ResponsePart) -> ContentPart | None:
    value: dict[str, Any] = {"type": "input_audio", **(load_json(part.extra_json) if part.extra_json else {})}
    try:
        return _chat_part.from_value(value) if type(value.get("input_audio")) is dict else None
    except JsonError:
        return None


def _joined(content: ChatContent, separator: str, *, keep: bool) -> ChatContent:
    """Returns text alone as a string, which every server reads; `keep`: several parts stay parts."""
    parts = content.parts.parts
    if content.WhichOneof("value") == "text" or any(part.type != "text" for part in parts):
        return content
    if keep and len(parts) > 1:
        return content
    return ChatContent(text=separator.join(part.text for part in parts))


def _texts(content: ResponseContent) -> Iterator[str]:
    yield content.text
    yield from (part.text for part in content.parts.parts)


def encrypted_contents(items: Iterable[ResponseItem]) -> list[str]:
    """Returns the encrypted thoughts, which chat does not carry but a provider that speaks Responses reads."""
    return [item.encrypted_content for item in items if item.encrypted_content]
