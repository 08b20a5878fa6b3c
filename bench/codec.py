"""What the codec costs: one streamed chunk of about 200 bytes, and a request of 200 messages and 400 kB, each way.

    python bench/codec.py
    python bench/codec.py --case "chunk: JSON to message" --calls 20000

CPU time of this process, the best of several rounds, so a busy machine matters little. With `--case` it does one case
that many times and prints nothing, to be counted from outside: the difference between two runs, under
`valgrind --tool=cachegrind --cache-sim=no` with 20,000 and 40,000 calls, is 20,000 calls' instructions.
"""

import argparse
import json
import time
import timeit
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from quillgate_codec import chat_chunk, chat_request, provider_chat_chunk

CHUNK = (
    b'{"id":"chatcmpl-123","object":"chat.completion.chunk","created":1694268190,"model":"gpt-4o-mini",'
    b'"system_fingerprint":"fp_44709d6fcb","choices":[{"index":0,"delta":{"content":" hello"},"logprobs":null,'
    b'"finish_reason":null}]}'
)
MESSAGES = 200
ROUNDS = 7


@dataclass(frozen=True)
class Case:
    """One thing to measure, with the time that it may take."""

    name: str
    call: Callable[[], Any]
    calls_per_round: int
    target_us: float


def plain_request() -> bytes:
    """A conversation of plain text, with an escape every 70 characters as prose and code have them."""
    text = ("The quick brown fox jumps over the lazy dog, and says so at length. \n" * 30)[:1_980]
    messages = [{"role": ("user", "assistant")[turn % 2], "content": text} for turn in range(MESSAGES)]
    return json.dumps({"model": "m", "messages": messages, "temperature": 0.2, "stream": True}).encode()


def agent_request() -> bytes:
    """An agent's conversation: multi-part content, tool calls and their results, tools with schemas, vendor members."""
    parameters = {"type": "object", "properties": {f"p{n}": {"type": "string", "minLength": n} for n in range(20)}}
    function = {"name": "run", "description": "Runs. " * 50, "parameters": parameters, "strict": True}
    call = {"id": "call_1", "type": "function", "function": {"name": "run", "arguments": json.dumps({"p0": "x" * 900})}}
    part = {"type": "text", "text": "line of a file\n" * 120, "cache_control": {"type": "ephemeral"}}
    turns: list[dict[str, Any]] = [
        {"role": "user", "content": [part]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "output\n" * 420},
        {"role": "assistant", "content": "Done. " * 280},
    ]
    body = {
        "model": "m",
        "messages": turns * (MESSAGES // 4),
        "tools": [{"type": "function", "function": function}] * 9,
    }
    return json.dumps({**body, "top_k": 40, "tool_choice": "auto", "stream_options": {"include_usage": True}}).encode()


def cases() -> list[Case]:
    """Everything that is measured."""
    chunk = provider_chat_chunk.from_json(CHUNK)
    found = [
        Case("chunk: JSON to message", lambda: provider_chat_chunk.from_json(CHUNK), 10_000, 8),
        Case("chunk: message to JSON", lambda: chat_chunk.to_json(chunk), 10_000, 8),
    ]
    for name, body in (("plain request", plain_request()), ("agent request", agent_request())):
        found += request_cases(f"{name} ({len(body) // 1000} kB)", body)
    return found


def request_cases(name: str, body: bytes) -> list[Case]:
    """Both ways of one request."""
    message = chat_request.from_json(body)
    return [
        Case(f"{name}: JSON to message", lambda: chat_request.from_json(body), 50, 1_000),
        Case(f"{name}: message to JSON", lambda: chat_request.to_json(message), 50, 1_000),
    ]


def measure_us(case: Case) -> float:
    """Returns the CPU time of a call in microseconds."""
    rounds = timeit.repeat(case.call, number=case.calls_per_round, repeat=ROUNDS, timer=time.process_time)
    return min(rounds) / case.calls_per_round * 1e6


def main() -> None:
    """Measures every case and prints a table, or only makes the calls of one."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--case", help="do only this one, without measuring")
    parser.add_argument("--calls", type=int, default=10_000, help="how often, with --case")
    arguments = parser.parse_args()
    if arguments.case is not None:
        (chosen,) = [case for case in cases() if case.name == arguments.case]
        timeit.timeit(chosen.call, number=arguments.calls)
        return
    print(f"chunk of {len(CHUNK)} bytes; requests of {MESSAGES} messages")
    for case in cases():
        time_us = measure_us(case)
        verdict = "ok" if time_us <= case.target_us else "OVER"
        print(f"{case.name:45} {time_us:8.1f} us   target {case.target_us:5.0f} us   {verdict}")


if __name__ == "__main__":
    main()
