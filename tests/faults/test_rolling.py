"""A short `python -m faults.rolling`: replicas are replaced under load, and nobody notices."""

import pytest
from faults.rolling.run import Plan, rolling


@pytest.mark.slow
async def test_a_rolling_restart_fails_no_request(capsys: pytest.CaptureFixture[str]) -> None:
    """Each core and facade is replaced while streams run; every answer ends, and is in the books exactly once."""
    plan = Plan(rate=60.0, stream_share=0.2, least_stream_s=2.0, most_stream_s=4.0, unready_s=1.0, in_pairs=True)
    finding = await rolling(plan, print)
    told = f"{capsys.readouterr().out}{finding} {finding.failures[:5]}"
    assert finding.is_good, told
    assert len(finding.exit_codes) == 4
    assert finding.most_streams > 10
