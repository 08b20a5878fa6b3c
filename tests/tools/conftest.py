"""Real clients against the whole service, core and facade apart; the provider behind it is scripted."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
from fakes.scripted_upstream import Fallback
from fakes.text_answers import text_or_chat
from service import start_service

from .desk import Desk

Sit = Callable[..., AbstractAsyncContextManager[Desk]]
"""Starts the service with a provider's behaviour, and gives a desk to use it from."""


@pytest.fixture
def sit(database_url: str, tmp_path: Path) -> Sit:
    """Starts the service on a fresh database and gives a desk with an empty home and project."""

    @asynccontextmanager
    async def start(fallback: Fallback = text_or_chat) -> AsyncIterator[Desk]:
        async with start_service(database_url, tmp_path, shape="apart", fallback=fallback) as service:
            yield Desk(service, tmp_path / "home", tmp_path / "project")

    return start


async def metered_requests(desk: Desk) -> int:
    """Returns how many requests were metered, all settled; raises TimeoutError when something stays held."""
    rows = await desk.service.rows("SELECT sum(request_count), sum(held_messages) FROM daily_message_count")
    assert rows[0][1] == 0
    return int(rows[0][0])
