"""Invariants of metering that take a provider and a caller to see; the others are listed in core/README.md."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import psycopg
import pytest_asyncio
from fakes.books import Books
from fakes.scripted_upstream import RecordedRequest, ScriptedAnswer, chat_answer, chat_stream, json_answer
from service import BIG_MODEL, RunningService, Tenant, start_service
from sqlalchemy import Engine

from quillgate_core.counting import Usage, counted_messages

MODEL_LIMIT = 64_000
"""The most tokens that the model answers with unless it is told less."""


PROMPT_TOKENS = 16
"""Most that a provider counts for "Hello!": a token for each byte, and what a template puts around a message."""


class Provider:
    """Answers within what it is asked for, sometimes fails, and keeps its own log: the truth."""

    def __init__(self, database_url: str) -> None:
        self._connection = psycopg.connect(database_url, autocommit=True)
        self._chance = random.Random(5)
        self.used: list[Usage] = []
        self.rows_missing = 0
        self.dispatched = 0

    def close(self) -> None:
        """Close its view of the ledger."""
        self._connection.close()

    def answer(self, request: RecordedRequest) -> ScriptedAnswer:
        """Look whether the dispatch has a committed row, and answer."""
        self.dispatched += 1
        row = self._connection.execute("SELECT count(*) FROM ledger").fetchone()
        assert row is not None
        self.rows_missing += row[0] < self.dispatched
        if self._chance.random() < 0.1:
            return json_answer(500, {"error": {"message": "boom"}})
        limit = request.json.get("max_tokens", MODEL_LIMIT)
        prompt = self._chance.randint(1, PROMPT_TOKENS)
        completion = self._chance.choice((1, limit // 2 + 1, limit))
        self.used.append(Usage(prompt, 0, completion))
        tokens: dict[str, Any] = {"prompt_tokens": prompt, "completion_tokens": completion}
        if request.json.get("stream"):
            return chat_stream(["some ", "words"], **tokens)
        return chat_answer(**tokens)


@pytest_asyncio.fixture
async def provider(database_url: str) -> AsyncIterator[Provider]:
    """The provider, with its own eyes on the ledger."""
    provider = Provider(database_url)
    yield provider
    provider.close()


@pytest_asyncio.fixture
async def service(database_url: str, tmp_path: Path, provider: Provider) -> AsyncIterator[RunningService]:
    """A service whose models that provider serves."""
    async with start_service(database_url, tmp_path, fallback=provider.answer) as service:
        yield service


async def ask(
    session: aiohttp.ClientSession, service: RunningService, tenant: Tenant, *, stream: bool, max_tokens: int | None
) -> tuple[int, str, Any]:
    """Ask, and return status, request id and the usage that was shown with a whole answer."""
    payload: dict[str, Any] = {"model": BIG_MODEL, "messages": [{"role": "user", "content": "Hello!"}]}
    payload |= {"max_tokens": max_tokens} if max_tokens else {}
    payload |= {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    headers = {"authorization": f"Bearer {tenant.key}"}
    async with session.post(f"{service.base_url}/chat/completions", json=payload, headers=headers) as response:
        text = await response.text()
    shown = None
    if response.status == 200 and not stream:
        shown = json.loads(text)["usage"]
    elif text.endswith("data: [DONE]\n\n"):
        shown = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")][-1]["usage"]
    return response.status, response.headers["x-request-id"], shown


async def test_i04_i05_i11_rows_before_dispatch_shown_usage_settled_truth_within_the_allowance(
    service: RunningService, provider: Provider, engine: Engine
) -> None:
    """Random requests on a small allowance: each dispatch had its row, each end its exact usage, and all fit."""
    tenant = await service.tenant(allowance=60)
    chance, shown = random.Random(11), {}

    async def work(session: aiohttp.ClientSession) -> None:
        for _ in range(12):
            stream, limit = chance.random() < 0.5, chance.choice((None, 300, 20_000, 60_000))
            status, request_id, usage = await ask(session, service, tenant, stream=stream, max_tokens=limit)
            assert status in (200, 429, 502)
            if usage is not None:
                shown[request_id] = (usage["prompt_tokens"], usage["completion_tokens"])

    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*(work(session) for _ in range(8)))
    assert provider.dispatched > 20
    assert provider.rows_missing == 0, "I4"
    rows = await service.rows(
        "SELECT request_id, prompt_tokens, completion_tokens FROM ledger WHERE state = 'settled' AND workspace_id = %s",
        tenant.workspace_id,
    )
    assert shown
    assert {request_id: (prompt, completion) for request_id, prompt, completion in rows} == shown, "I5"
    assert sum(map(counted_messages, provider.used)) <= 60, "I11"
    day = await service.settled(tenant)
    assert day[0] == sum(map(counted_messages, provider.used))
    Books(engine).check()


async def test_i12_a_serial_client_uses_its_whole_allowance(service: RunningService) -> None:
    """One request after the other, each of one message: exactly as many as the allowance are answered, then none."""
    for allowance in (0, 1, 7):
        tenant = await service.tenant(allowance=allowance)
        async with aiohttp.ClientSession() as session:
            statuses = [
                (await ask(session, service, tenant, stream=bool(number % 2), max_tokens=300))[0]
                for number in range(2 * allowance + 5)
            ]
        assert statuses.count(200) == allowance
        assert statuses[-1] == 429
        if allowance:
            assert (await service.settled(tenant))[:2] == (allowance, 0)
