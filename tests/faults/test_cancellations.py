"""I7 while the owner lives: a request that is cancelled at any await leaves no row open."""

import pytest
from fakes.books import Books
from faults.cancellations import cancel_at_random, open_rows
from service import RunningService
from sqlalchemy import Engine

COUNT = 4_000


@pytest.mark.slow
async def test_i07_no_cancellation_leaves_a_row_open(running_service: RunningService, engine: Engine) -> None:
    """Thousands of requests, streams and whole answers, cancelled wherever they wait: every row ends, sums agree."""
    service = running_service
    tenant = await service.tenant()
    ends = await cancel_at_random(service, tenant, COUNT, seed=7)
    assert min(ends["cancelled"], ends["complete"]) > COUNT / 20, ends
    states = await open_rows(service, tenant)
    assert states["open"] == 0, states
    assert states["settled"] >= ends["complete"]
    Books(engine).check()
