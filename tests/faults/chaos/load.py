"""Callers of the REST API: streams and whole answers, some repeatable, some hung up, and what each of them saw."""

import asyncio
import json
import random
import time
from dataclasses import dataclass, field
from typing import Any

from aiohttp import ClientError, ClientSession, ClientTimeout
from faults.chaos.record import Attempt, Record, Tokens
from faults.chaos.site import MODELS, Tenancy

MAX_ATTEMPTS = 3
MAX_TOKENS = (64, 300, 1000, 20_000, 60_000)
STREAM_SHARE = 0.6
IDEMPOTENT_SHARE = 0.5
HANG_UP_SHARE = 0.1
ANSWER_S = 30.0
"""How long a caller waits for the whole answer; more than any answer takes."""

AGAIN = frozenset({0, 409, 429, 500, 502, 503, 504})
"""Statuses after which a repeatable request is asked again; 0: no answer."""


@dataclass
class Caller:
    """One caller with a key of its own, whose requests follow each other; `run` until `stopped`."""

    tenancy: Tenancy
    facades: list[str]
    record: Record
    chance: random.Random
    stopped: asyncio.Event
    number: int = field(default=0)

    async def run(self) -> None:
        """Ask until it is enough."""
        headers = {"authorization": f"Bearer {self.tenancy.secret}"}
        async with ClientSession(headers=headers, timeout=ClientTimeout(total=ANSWER_S)) as http:
            while not self.stopped.is_set():
                self.number += 1
                await self._ask(http, f"{self.tenancy.key_id}.{self.number}")

    async def _ask(self, http: ClientSession, token: str) -> None:
        is_stream = self.chance.random() < STREAM_SHARE
        is_idempotent = self.chance.random() < IDEMPOTENT_SHARE
        body = self._body(token, is_stream=is_stream)
        for _ in range(MAX_ATTEMPTS if is_idempotent else 1):
            attempt = Attempt(
                token,
                self.tenancy.workspace_id,
                self.tenancy.key_id,
                "stream" if is_stream else "unary",
                is_idempotent,
                time.time(),
            )
            self.record.attempts.append(attempt)
            hang_up_s = self.chance.uniform(0, 0.7) if self.chance.random() < HANG_UP_SHARE else ANSWER_S
            await self._call(http, body, attempt, hang_up_s)
            attempt.end_time = time.time()
            await asyncio.sleep(self.chance.uniform(0.05, 0.4) if attempt.is_done else self.chance.uniform(0.2, 0.8))
            if attempt.is_done or attempt.status not in AGAIN or self.stopped.is_set():
                return

    def _body(self, token: str, *, is_stream: bool) -> dict[str, Any]:
        padding = "word " * self.chance.choice((4, 20, 100))
        body = {
            "model": self.chance.choice(MODELS),
            "messages": [{"role": "user", "content": f"{token} {padding}"}],
            "max_tokens": self.chance.choice(MAX_TOKENS),
        }
        if is_stream:
            body["stream"] = True
            body["stream_options"] = {"include_usage": self.chance.random() < 0.7}
        return body

    async def _call(self, http: ClientSession, body: dict[str, Any], attempt: Attempt, hang_up_s: float) -> None:
        headers = {"idempotency-key": attempt.token} if attempt.is_idempotent else {}
        url = f"{self.chance.choice(self.facades)}/chat/completions"
        try:
            async with asyncio.timeout(hang_up_s), http.post(url, json=body, headers=headers) as answer:
                attempt.status = answer.status
                attempt.request_id = answer.headers.get("x-request-id", "")
                text = await answer.text()
        except TimeoutError:
            attempt.note = "hung up" if hang_up_s < ANSWER_S else "no end in time"
        except (ClientError, OSError) as error:
            attempt.note = type(error).__name__
        else:
            read_answer(attempt, text)
            if attempt.is_done:
                self.record.ended.set()


def read_answer(attempt: Attempt, text: str) -> None:
    """Write down what an answer says."""
    if attempt.status != 200:
        attempt.note = text[:200]
    elif attempt.kind == "unary":
        attempt.is_done = True
        attempt.shown = shown_usage(json.loads(text))
    else:
        events = [line[6:] for line in text.split("\n") if line.startswith("data: ")]
        attempt.is_done = events[-1:] == ["[DONE]"]
        attempt.note = "" if attempt.is_done else "".join(events[-1:])[-200:]
        usages = [shown_usage(json.loads(event)) for event in events if '"usage"' in event]
        attempt.shown = usages[-1] if usages else None


def shown_usage(answer: dict[str, Any]) -> Tokens | None:
    """The usage of an answer or a chunk."""
    usage = answer.get("usage")
    if usage is None:
        return None
    details = usage.get("prompt_tokens_details") or {}
    return Tokens(usage["prompt_tokens"], details.get("cached_tokens", 0), usage["completion_tokens"])
