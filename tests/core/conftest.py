"""A service after its first start, for the tests of keys and workspaces."""

import pytest
from fakes.site import Site, open_site
from sqlalchemy import Engine


@pytest.fixture
def site(engine: Engine) -> Site:
    """Keys and workspaces on a fresh database, and the first admin."""
    return open_site(engine)
