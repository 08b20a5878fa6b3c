"""A scripted upstream of its own for every test, and the loops that tests run on."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
import uvloop
from fakes.gemini_site import GeminiSite
from fakes.provider_site import ProviderSite
from fakes.scripted_upstream import ScriptedUpstream


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Gives tests that are marked so the product's loop beside that of all others."""
    if item.get_closest_marker("both_loops") is None:
        return {"asyncio": asyncio.new_event_loop}
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture
async def site() -> AsyncIterator[ProviderSite]:
    """A site of this test alone, its connections closed afterwards."""
    async with ScriptedUpstream() as upstream:
        site = ProviderSite(upstream)
        yield site
        await site.pool.close()


@pytest.fixture
async def gemini_site() -> AsyncIterator[GeminiSite]:
    """The same for Gemini."""
    async with ScriptedUpstream() as upstream:
        site = GeminiSite(upstream)
        yield site
        await site.pool.close()
