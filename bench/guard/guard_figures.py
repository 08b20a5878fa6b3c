"""Committed figures of work, and the comparison with what is counted now.

Byte code differs from one Python to the next, so figures are kept for each minor version, in `figures.json`.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from work_counter import Work

FIGURES = Path(__file__).resolve().parent / "figures.json"
TOLERANCE = 0.10


def read_figures(path: Path, python: str) -> dict[str, Work] | None:
    """Returns the figures of a Python such as `3.11`, None when there are none."""
    kept = json.loads(path.read_text()) if path.exists() else {}
    return {name: Work(**work) for name, work in kept[python].items()} if python in kept else None


def write_figures(path: Path, python: str, works: Mapping[str, Work]) -> None:
    """Keeps the figures of one Python, and leaves those of others as they are."""
    kept = json.loads(path.read_text()) if path.exists() else {}
    kept[python] = {
        name: {"instructions": round(work.instructions), "calls": round(work.calls)} for name, work in works.items()
    }
    path.write_text(json.dumps(dict(sorted(kept.items())), indent=2) + "\n")


def deviations(kept: Mapping[str, Work], found: Mapping[str, Work]) -> list[str]:
    """Says in a line each what is not within a tenth of the figure that is kept: more work, and less as well.

    Less must be told too: otherwise what was gained could be lost again unseen.
    """
    lines = [f"{name}: counted, but no figure is kept" for name in found if name not in kept]
    for name, figure in kept.items():
        if name not in found:
            lines.append(f"{name}: a figure is kept, but it is not counted any more")
            continue
        for unit in ("instructions", "calls"):
            old, new = getattr(figure, unit), getattr(found[name], unit)
            if abs(new - old) > TOLERANCE * old:
                lines.append(f"{name}: {new:,.0f} {unit} instead of {old:,.0f} ({new / old - 1:+.1%})")
    return lines
