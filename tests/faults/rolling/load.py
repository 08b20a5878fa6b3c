"""Requests at a steady rate, whatever becomes of those before: short ones and long streams, none asked twice."""

import asyncio
import random
import time
from dataclasses import dataclass, field
from itertools import count

from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector
from faults.chaos.load import read_answer
from faults.chaos.record import Attempt, Record
from faults.chaos.site import Tenancy

ANSWER_S = 90.0
"""How long a caller waits for the end of an answer."""

BEAT_S = 0.02


@dataclass
class SteadyLoad:
    """`rate` requests a second through `url`, of which `stream_share` are streams; `run` until `stopped`."""

    tenancies: list[Tenancy]
    url: str
    record: Record
    chance: random.Random
    rate: float
    stream_share: float
    stopped: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Ask until it is enough, and wait for what was asked."""
        numbers = count(1)
        asked = 0
        connector = TCPConnector(limit=0, keepalive_timeout=60)
        async with (
            ClientSession(connector=connector, timeout=ClientTimeout(total=ANSWER_S)) as http,
            asyncio.TaskGroup() as group,
        ):
            start = time.monotonic()
            while not self.stopped.is_set():
                due = int((time.monotonic() - start) * self.rate)
                for _ in range(due - asked):
                    group.create_task(self._ask(http, self.chance.choice(self.tenancies), next(numbers)))
                asked = due
                await asyncio.sleep(BEAT_S)

    async def _ask(self, http: ClientSession, tenancy: Tenancy, number: int) -> None:
        is_stream = self.chance.random() < self.stream_share
        token = f"{tenancy.key_id}.{number}"
        kind = "stream" if is_stream else "unary"
        attempt = Attempt(token, tenancy.workspace_id, tenancy.key_id, kind, False, time.time())
        self.record.attempts.append(attempt)
        body = {
            "model": "chaos/one",
            "messages": [{"role": "user", "content": f"{token} and some words"}],
            "max_tokens": 256,
            "stream": is_stream,
        }
        headers = {"authorization": f"Bearer {tenancy.secret}"}
        url = f"{self.url}/api/openai/v1/chat/completions"
        try:
            async with http.post(url, json=body, headers=headers) as answer:
                attempt.status = answer.status
                attempt.request_id = answer.headers.get("x-request-id", "")
                read_answer(attempt, await answer.text())
        except (ClientError, OSError, TimeoutError) as error:
            attempt.note = f"{type(error).__name__} {error}"
        attempt.end_time = time.time()
