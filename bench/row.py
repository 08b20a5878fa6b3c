"""Rows of the table: what was measured, its figure, and the target if there is one."""

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Row:
    """One figure of one piece of work. A target is the most that it may be, or with `at_least` the least."""

    work: str
    figure: str
    value: float
    target: float | None = None
    at_least: bool = False
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without one."""
        if self.target is None:
            return None
        return self.value >= self.target if self.at_least else self.value <= self.target


def medians(runs: Iterable[Sequence[Row]]) -> list[Row]:
    """Returns the median of each figure over several runs, the rows in their first order."""
    found: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for rows in runs:
        for row in rows:
            found[row.work, row.figure].append(row)
    return [replace(rows[0], value=statistics.median(row.value for row in rows)) for rows in found.values()]


def ratio(ours: Row, other: Row) -> float | None:
    """Returns how many times better ours is, None where nothing can be divided."""
    if ours.value <= 0 or other.value <= 0:
        return None
    return ours.value / other.value if ours.at_least else other.value / ours.value


def number(value: float) -> str:
    """Writes a figure with three significant digits or more, and thousands apart."""
    if abs(value) >= 1_000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"


def table(rows: Sequence[Row]) -> str:
    """Writes the rows as one table."""
    lines = [f"{'work':<46} {'figure':<34} {'value':>9} {'target':>11}"]
    before = ""
    for row in rows:
        target = "" if row.target is None else f"{'>=' if row.at_least else '<='} {number(row.target)}"
        verdict = {True: "met", False: "MISSED", None: ""}[row.met]
        work = row.work if row.work != before else ""
        before = row.work
        lines.append(f"{work:<46} {row.figure:<34} {number(row.value):>9} {target:>11}  {verdict}".rstrip())
        if row.note:
            lines.append(f"{'':<47}({row.note})")
    return "\n".join(lines)
