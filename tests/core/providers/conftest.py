"""A scripted upstream of its own for every test."""

from collections.abc import AsyncIterator

import pytest
from fakes.gemini_site import GeminiSite
from fakes.provider_site import ProviderSite
from fakes.scripted_upstream import ScriptedUpstream


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
