"""The same tests against the service all in one and with core and facade apart."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from openai import AsyncOpenAI
from openai_clients import Connect
from service import RunningService, start_service


@pytest_asyncio.fixture(params=["together", "apart"])
async def service(request: pytest.FixtureRequest, database_url: str, tmp_path: Path) -> AsyncIterator[RunningService]:
    """The whole service on a fresh database, in both of its shapes."""
    async with start_service(database_url, tmp_path, shape=request.param) as running:
        yield running


@pytest_asyncio.fixture
async def connect(service: RunningService) -> AsyncIterator[Connect]:
    """Makes official clients as a user would: with a base URL and a key."""
    made: list[AsyncOpenAI] = []

    def make(key: str = "") -> AsyncOpenAI:
        made.append(AsyncOpenAI(base_url=service.base_url, api_key=key or service.developer_key))
        return made[-1]

    yield make
    for client in made:
        await client.close()
