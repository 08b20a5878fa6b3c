"""One request does as much work as it did: counted in instructions and calls, so no clock and no other load matters."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from guard_figures import FIGURES, deviations, read_figures, write_figures
from work_counter import CAN_COUNT, Work, WorkCounter

ROOT = Path(__file__).resolve().parents[2]

counts = pytest.mark.skipif(not CAN_COUNT, reason="only Python 3.11 can count instructions")


@counts
def test_a_request_does_as_much_work_as_committed() -> None:
    """Codec, whole answer, stream and chunk stay within a tenth; `make guard-figures` renews what is compared with."""
    counted = subprocess.run(
        [sys.executable, ROOT / "bench" / "guard"], capture_output=True, text=True, timeout=300, check=False
    )
    assert counted.returncode == 0, counted.stdout + counted.stderr


def test_the_oldest_python_has_figures() -> None:
    """The Python that CI runs is compared, so the skip of others cannot hide anything there."""
    figures = read_figures(FIGURES, "3.11")
    assert figures is not None
    assert {"request: whole answer", "request: chunk that comes alone", "codec: chunk, read"} <= set(figures)


@pytest.mark.parametrize("unit", ["instructions", "calls"])
@pytest.mark.parametrize(("factor", "told"), [(1.15, True), (1.08, False), (0.92, False), (0.85, True)])
def test_a_tenth_is_tolerated(unit: str, factor: float, told: bool) -> None:
    """15 % more or less is told, 8 % is not, in either unit."""
    kept = {"request": Work(10_000, 1_000), "chunk": Work(500, 50)}
    changed = {"instructions": 10_000, "calls": 1_000} | {unit: {"instructions": 10_000, "calls": 1_000}[unit] * factor}
    lines = deviations(kept, {**kept, "request": Work(**changed)})
    assert [unit in line and line.startswith("request:") for line in lines] == [True] * told


def test_what_is_compared_must_be_the_same() -> None:
    """A case without a figure and a figure without its case are told."""
    assert len(deviations({"gone": Work(1, 1)}, {"new": Work(1, 1)})) == 2


def test_figures_of_other_pythons_are_left_alone(tmp_path: Path) -> None:
    """Renewing writes this Python's figures only; another one's are missing or untouched."""
    path = tmp_path / "figures.json"
    write_figures(path, "3.11", {"chunk": Work(10.4, 2)})
    write_figures(path, "3.12", {"chunk": Work(9, 1)})
    assert read_figures(path, "3.11") == {"chunk": Work(10, 2)}
    assert read_figures(path, "3.13") is None
    assert list(json.loads(path.read_text())) == ["3.11", "3.12"]


def _turns(count: int) -> int:
    total = 0
    for number in range(count):
        total += abs(number)
    return total


@counts
def test_work_is_counted_the_same_each_time() -> None:
    """Twice the turns are twice the instructions and calls, and a second count is the first one's."""
    once, again, twice = (WorkCounter().of(lambda count=count: _turns(count)) for count in (1_000, 1_000, 2_000))
    assert once == again
    assert once.calls > 1_000
    assert round(twice.instructions / once.instructions, 2) == round(twice.calls / once.calls, 2) == 2
