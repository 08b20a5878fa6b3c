"""The gate with two small services behind it, in process and over a socket; and callers for servicers alone."""

from collections.abc import AsyncIterator

import pytest
from fakes.rpc_site import RpcSite, open_site


@pytest.fixture(params=["in process", "socket"])
async def rpc(request: pytest.FixtureRequest) -> AsyncIterator[RpcSite]:
    """The services over each transport."""
    async with open_site(request.param) as opened:
        yield opened
