"""A trial of its own for every test and every vendor."""

from collections.abc import AsyncIterator

import pytest
from conformance.trial import Trial
from conformance.vendor import Vendor
from conformance.vendors import VENDORS
from fakes.scripted_upstream import ScriptedUpstream

from quillgate_core.providers.http_pool import HttpPool


@pytest.fixture(params=VENDORS, ids=[vendor.name for vendor in VENDORS])
def vendor(request: pytest.FixtureRequest) -> Vendor:
    """Each vendor in turn."""
    found: Vendor = request.param
    return found


@pytest.fixture
async def trial(vendor: Vendor) -> AsyncIterator[Trial]:
    """The vendor before an upstream of this test alone."""
    async with ScriptedUpstream() as upstream:
        pool = HttpPool()
        yield Trial(vendor, upstream, pool)
        await pool.close()
