"""A short run of `make chaos`: whatever is killed, nothing is lost, doubled or over."""

import pytest
from faults.chaos.run import Plan, chaos


@pytest.mark.slow
async def test_nothing_is_lost_doubled_or_over(capsys: pytest.CaptureFixture[str]) -> None:
    """Cores, facades and the database are killed under load; the books agree with the provider, request by request."""
    verdict, mischief = await chaos(Plan(20.0, kill_s=2.0, restart_s=8.0, seed=1), print)
    told = capsys.readouterr().out
    assert verdict.is_clean, told
    assert verdict.dispatched > 50
    assert mischief.kills >= 5
    assert mischief.restarts >= 1
