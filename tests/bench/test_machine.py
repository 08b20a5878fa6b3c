"""The bench's head tells what a figure must be read with."""

from typing import Any

import pytest
from machine import head

MACHINE = {"time": "2026-11-29T23:00:00Z", "commit": "", "cpu": "EPYC", "cores": 2, "kernel": "Linux 6"}
CALIBRATION = {"requests_per_s": 75_000, "chunks_per_s": 165_000, "python_ms": 23.34}


def _result(load_average: float) -> dict[str, Any]:
    machine = MACHINE | {"python": "3.11.2", "postgres": "18.4", "load_average": load_average}
    return {"machine": machine, "calibration": CALIBRATION}


def test_the_head_tells_both_calibrations() -> None:
    """What C does on a machine says nothing of its Python, so that both are told."""
    told = head(_result(0.0))
    assert "75,000 requests/s, 165,000 chunks/s" in told
    assert "this Python: 23.3 ms for 100,000 steps" in told


@pytest.mark.parametrize(("load_average", "busy"), [(0.5, False), (0.6, True)])
def test_a_busy_machine_is_told(load_average: float, busy: bool) -> None:
    """Above half a process that waits for a core, the head warns."""
    assert ("trust no rate" in head(_result(load_average))) is busy
