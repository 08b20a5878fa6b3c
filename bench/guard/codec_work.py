"""What the codec does for what every request passes through it: the question, the answer, a chunk, each way."""

import json
from collections.abc import Callable
from functools import partial
from typing import Any

from work_counter import Work, WorkCounter

from quillgate_codec import Codec, chat_answer, chat_chunk, chat_request, provider_chat_answer, provider_chat_chunk

MESSAGES = 20

TOOL = {
    "type": "function",
    "function": {"name": "run", "parameters": {"type": "object", "properties": {"path": {"type": "string"}}}},
}
TURNS = [
    {"role": "user", "content": [{"type": "text", "text": "Read it.", "cache_control": {"type": "ephemeral"}}]},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "run", "arguments": '{"path":"a"}'}}],
    },
    {"role": "tool", "tool_call_id": "c1", "content": "some lines"},
    {"role": "assistant", "content": "It says nothing."},
]
REQUEST = {
    "model": "m",
    "messages": [{"role": "system", "content": "Be brief."}, *TURNS * (MESSAGES // len(TURNS))],
    "tools": [TOOL],
    "temperature": 0.2,
    "max_tokens": 64,
    "top_k": 40,
    "stream": True,
    "stream_options": {"include_usage": True},
}
HEAD = {"id": "chatcmpl-1", "created": 1_760_000_000, "model": "m", "system_fingerprint": "fp_1"}
CHOICE = {"index": 0, "delta": {"content": " hello"}, "logprobs": None, "finish_reason": None}
CHUNK = {**HEAD, "object": "chat.completion.chunk", "choices": [CHOICE]}
USAGE = {
    "prompt_tokens": 12,
    "completion_tokens": 11,
    "total_tokens": 23,
    "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
}
MESSAGE = {"role": "assistant", "content": "Hello!", "refusal": None}
ANSWER = {
    **HEAD,
    "object": "chat.completion",
    "choices": [{"index": 0, "message": MESSAGE, "logprobs": None, "finish_reason": "stop"}],
    "usage": USAGE,
}


def codec_work(counter: WorkCounter) -> dict[str, Work]:
    """Returns the work of each direction."""
    calls = {
        **_both_ways("request of 21 messages", chat_request, chat_request, REQUEST),
        **_both_ways("answer", provider_chat_answer, chat_answer, ANSWER),
        **_both_ways("chunk", provider_chat_chunk, chat_chunk, CHUNK),
    }
    return {f"codec: {name}": counter.of(call) for name, call in calls.items()}


def _both_ways(
    name: str, reader: Codec[Any], writer: Codec[Any], value: dict[str, Any]
) -> dict[str, Callable[[], Any]]:
    body = json.dumps(value, separators=(",", ":")).encode()
    message = reader.from_json(body)
    return {f"{name}, read": partial(reader.from_json, body), f"{name}, written": partial(writer.to_json, message)}
