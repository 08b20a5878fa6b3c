"""Gemini's `GenerateContentResponse`, whole or streamed, as OpenAI's answers and chunks. Pure.

Chunks are built from the decoded JSON directly: this is the path that every streamed token takes.

    text                        content; `thought: true`: reasoning_content
    functionCall                a whole tool call, with an id of its own or one that is made up
    thoughtSignature            extra_content.google.thought_signature of its call, and reasoning_details, for clients
                                that send back the one or the other; that of a text: reasoning_details
    inlineData                  images, in OpenRouter's form
    promptFeedback.blockReason  a refusal

    STOP                        stop, or tool_calls when there are any
    MAX_TOKENS, CONTINUATION    length
    SAFETY and its relatives    content_filter
    MALFORMED_FUNCTION_CALL,    ProviderUnavailable: the model failed, and asking again helps; told as an end, clients
    OTHER, anything else        would take nothing for an answer

The end of a choice is told when the stream is: Gemini may repeat a reason, and say more after it. A stream that closes
without a reason gets none from us.
"""

from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec

from quillgate.v1.chat_completion_pb2 import (
    ChatCompletion,
    ChatCompletionChunk,
    ChatDelta,
    ChatMessage,
    Logprobs,
    TokenLogprob,
    ToolCall,
    TopLogprob,
)
from quillgate_core.providers.gemini_contents import REASONING_FORMAT
from quillgate_core.providers.gemini_usage import completion_usage
from quillgate_core.providers.provider_error import ProviderErrors

_FILTERED: Final = (
    *("SAFETY", "RECITATION", "LANGUAGE", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "MODEL_ARMOR", "ESCALATION"),
    *("IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION"),
)
_ENDS: Final = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "CONTINUATION": "length",  # the limit of one request; Gemini could be asked for the rest
    **dict.fromkeys(_FILTERED, "content_filter"),
}
_FAILURES: Final = {
    "MALFORMED_FUNCTION_CALL": "made a tool call that cannot be read",
    "UNEXPECTED_TOOL_CALL": "called a tool that it was not given",
    "TOO_MANY_TOOL_CALLS": "called tools without end",
    "MISSING_THOUGHT_SIGNATURE": "missed a thought signature in the conversation",
    "MALFORMED_RESPONSE": "made an answer that cannot be read",
    "PUP_LIMITED_DISABLED": "refused this gateway's account",
    "NO_IMAGE": "made no image",
    "IMAGE_OTHER": "made no image",
}
_NOT_YET: Final = ("", "FINISH_REASON_UNSPECIFIED")
_BLOCKED: Final = "The provider refused to answer this prompt"
_MAX_INDEX: Final = 128

_dumps = msgspec.json.Encoder().encode


class _Candidate:
    """What is known of one alternative so far."""

    __slots__ = ("calls", "details", "images", "is_begun", "is_blocked", "reason")

    def __init__(self) -> None:
        self.is_begun = False
        self.is_blocked = False
        self.calls = 0
        self.details = 0
        self.images = 0
        self.reason = ""


class GeminiAnswer:
    """Follows one answer: `take` each response in order, then `end`.

    `single_call` keeps the first tool call of each alternative only. `new_call_id` makes ids for calls without one.
    """

    def __init__(self, errors: ProviderErrors, *, single_call: bool, new_call_id: Callable[[], str]) -> None:
        self._errors = errors
        self._single_call = single_call
        self._new_call_id = new_call_id
        self._candidates: dict[int, _Candidate] = {}
        self._id = ""

    def take(self, value: dict[str, Any]) -> ChatCompletionChunk:
        """Returns what a response adds; raises ProviderUnavailable for what cannot be read."""
        chunk = self._chunk()
        if not self._id and type(value.get("responseId")) is str:
            chunk.id = self._id = value["responseId"]
        usage = value.get("usageMetadata")
        if type(usage) is dict:
            chunk.usage.CopyFrom(completion_usage(usage))
        for candidate in _dicts(value.get("candidates")):
            self._take_candidate(chunk, candidate)
        feedback = value.get("promptFeedback")
        if type(feedback) is dict and type(feedback.get("blockReason")) is str:
            self._block(chunk, feedback["blockReason"])
        return chunk

    def end(self) -> list[ChatCompletionChunk]:
        """Returns the chunk that ends the alternatives that have a reason to; none if there are none.

        Raises ProviderUnavailable when the model failed.
        """
        chunk = self._chunk()
        for index, candidate in self._candidates.items():
            if candidate.reason:
                reason = "content_filter" if candidate.is_blocked else _ENDS.get(candidate.reason)
                if reason is None:
                    raise self._errors.unavailable(_FAILURES.get(candidate.reason, "could not finish its answer"))
                if reason == "stop" and candidate.calls:
                    reason = "tool_calls"
                choice = chunk.choices.add(index=index, finish_reason=reason)
                choice.delta.SetInParent()
                choice.extra_json = _dumps({"native_finish_reason": candidate.reason})
        return [chunk] if chunk.choices else []

    def _chunk(self) -> ChatCompletionChunk:
        return ChatCompletionChunk(id=self._id, object="chat.completion.chunk")

    def _take_candidate(self, chunk: ChatCompletionChunk, value: dict[str, Any]) -> None:
        index = value.get("index", 0)
        if type(index) is not int or not 0 <= index < _MAX_INDEX:
            raise self._errors.unavailable("sent an answer that cannot be read")
        candidate = self._candidates.get(index) or self._candidates.setdefault(index, _Candidate())
        choice = chunk.choices.add(index=index)
        delta = choice.delta
        content = value.get("content")
        if type(content) is dict:
            self._take_parts(delta, candidate, _dicts(content.get("parts")))
        logprobs = value.get("logprobsResult")
        if type(logprobs) is dict:
            choice.logprobs.CopyFrom(_logprobs(logprobs))
        if not delta.ByteSize() and not choice.HasField("logprobs"):
            del chunk.choices[-1]
        elif not candidate.is_begun:
            candidate.is_begun = True
            delta.role = "assistant"
        reason = value.get("finishReason")
        if type(reason) is str and reason not in _NOT_YET:
            candidate.reason = reason

    def _take_parts(self, delta: ChatDelta, candidate: _Candidate, parts: Iterable[dict[str, Any]]) -> None:
        details: list[dict[str, Any]] = []
        for part in parts:
            text, call, signature = part.get("text"), part.get("functionCall"), part.get("thoughtSignature")
            call_id = None
            if type(text) is str and text:
                if part.get("thought"):
                    delta.reasoning_content += text
                else:
                    delta.content += text
            elif type(call) is dict:
                if self._single_call and candidate.calls:
                    continue
                call_id = self._add_call(delta, candidate, call, signature)
            elif type(part.get("inlineData")) is dict:
                _add_image(delta, candidate, part["inlineData"])
            if type(signature) is str and signature:
                details.append(_detail(signature, call_id, candidate.details))
                candidate.details += 1
        if details:
            delta.reasoning_details = _dumps(details)

    def _add_call(self, delta: ChatDelta, candidate: _Candidate, call: dict[str, Any], signature: Any) -> str:
        name, arguments, call_id = call.get("name"), call.get("args"), call.get("id")
        if type(name) is not str or not name:
            raise self._errors.unavailable(_FAILURES["MALFORMED_FUNCTION_CALL"])
        if type(call_id) is not str or not call_id:
            call_id = self._new_call_id()
        made = ToolCall(index=candidate.calls, id=call_id, type="function")
        made.function.name = name
        made.function.arguments = _dumps(arguments).decode() if type(arguments) is dict else "{}"
        if type(signature) is str and signature:
            made.extra_json = _dumps({"extra_content": {"google": {"thought_signature": signature}}})
        delta.tool_calls.append(made)
        candidate.calls += 1
        return call_id

    def _block(self, chunk: ChatCompletionChunk, reason: str) -> None:
        """Refuses for a prompt that was blocked: an answer like any other, because the caller can act on it."""
        if not reason or any(candidate.reason for candidate in self._candidates.values()):
            return
        candidate = self._candidates.setdefault(0, _Candidate())
        candidate.reason, candidate.is_blocked = reason, True
        delta = chunk.choices.add(index=0).delta
        delta.refusal = f"{_BLOCKED} ({reason[:40]})." if reason.isascii() else f"{_BLOCKED}."
        if not candidate.is_begun:
            candidate.is_begun = True
            delta.role = "assistant"


def whole_answer(chunks: Iterable[ChatCompletionChunk], errors: ProviderErrors) -> ChatCompletion:
    """Returns the answer that the chunks of one response and its end make; raises for one that is none."""
    answer = ChatCompletion(object="chat.completion")
    for chunk in chunks:
        answer.id = chunk.id or answer.id
        if chunk.HasField("usage"):
            answer.usage.CopyFrom(chunk.usage)
        for part in chunk.choices:
            choice = next((known for known in answer.choices if known.index == part.index), None)
            if choice is None:
                choice = answer.choices.add(index=part.index)
                choice.message.role = "assistant"
            _join(choice.message, part.delta)
            if part.HasField("logprobs"):
                choice.logprobs.CopyFrom(part.logprobs)
            if part.finish_reason:
                choice.finish_reason, choice.extra_json = part.finish_reason, part.extra_json
    if not answer.choices:
        raise errors.unavailable("sent an answer without candidates")
    if not all(choice.finish_reason for choice in answer.choices):
        raise errors.unavailable("cut its answer short")
    for choice in answer.choices:
        message = choice.message
        if not message.HasField("content") and not message.tool_calls and not message.refusal:
            message.content.text = ""
    return answer


def _join(message: ChatMessage, delta: ChatDelta) -> None:
    """Adds a delta to a message; there is at most one that says something."""
    if delta.content:
        message.content.text = delta.content
    for name in ("reasoning_content", "refusal", "reasoning_details", "extra_json"):
        if delta.HasField(name):
            setattr(message, name, getattr(delta, name))
    for call in delta.tool_calls:
        call.ClearField("index")
        message.tool_calls.append(call)


def _detail(signature: str, call_id: str | None, index: int) -> dict[str, Any]:
    return {
        "type": "reasoning.encrypted",
        "data": signature,
        "id": call_id,
        "format": REASONING_FORMAT,
        "index": index,
    }


def _add_image(delta: ChatDelta, candidate: _Candidate, data: dict[str, Any]) -> None:
    mime_type, content = data.get("mimeType"), data.get("data")
    if type(mime_type) is not str or type(content) is not str or not mime_type.startswith("image/"):
        return
    known = msgspec.json.decode(delta.extra_json)["images"] if delta.extra_json else []
    image = {"url": f"data:{mime_type};base64,{content}"}
    made = {"type": "image_url", "image_url": image, "index": candidate.images}
    candidate.images += 1
    delta.extra_json = _dumps({"images": [*known, made]})


def _logprobs(value: dict[str, Any]) -> Logprobs:
    tops = [_dicts(step.get("candidates")) for step in _dicts(value.get("topCandidates"))]
    found = Logprobs()
    for position, chosen in enumerate(_dicts(value.get("chosenCandidates"))):
        token = _token(chosen)
        made = TokenLogprob(token=token.token, logprob=token.logprob, bytes=token.bytes)
        made.top_logprobs.extend(map(_token, tops[position] if position < len(tops) else ()))
        found.content.append(made)
    return found


def _token(value: dict[str, Any]) -> TopLogprob:
    token, logprob = value.get("token"), value.get("logProbability")
    text = token if type(token) is str else ""
    number = logprob if type(logprob) is float or type(logprob) is int else 0
    return TopLogprob(token=text, logprob=number, bytes=text.encode())


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if type(item) is dict] if type(value) is list else []
