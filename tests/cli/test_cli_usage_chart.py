"""Bars: their lengths, the allowance's line, and what fits into a terminal."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quillgate_cli.usage_chart import Bar, chart_text

DAYS = [Bar("2026-11-21", 0), Bar("2026-11-22", 80), Bar("2026-11-23", 1, 7), Bar("2026-11-24", 40)]


def test_bars_are_as_long_as_what_was_used() -> None:
    """The longest bar fills the room, half as much half of it; little is seen, and nothing is nothing."""
    lines = chart_text(DAYS, None, width=50, plain=False).splitlines()
    bars = [line[12:].split(" ")[0] for line in lines]
    assert [set(bar) <= set("█▏▎▍▌▋▊▉") for bar in bars] == [True] * 4
    assert (len(bars[0]), len(bars[2])) == (0, 1)
    assert len(bars[1]) in (2 * len(bars[3]), 2 * len(bars[3]) - 1)
    assert lines[2].endswith("1 +7 with own keys")


def test_a_part_of_a_character_is_drawn() -> None:
    """Eighths of a character tell close days apart."""
    (half, _) = chart_text([Bar("2026-11-21", 15), Bar("2026-11-22", 20)], None, width=25, plain=False).splitlines()
    assert half[12:].split(" ")[0] == "███████▌"


def test_the_allowance_is_a_line() -> None:
    """It stands at its place in every row that does not reach it."""
    lines = chart_text([Bar("2026-11-21", 0), Bar("2026-11-22", 5), Bar("2026-11-23", 20)], 10, width=35, plain=False)
    positions = [line.find("┊") for line in lines.splitlines()]
    assert positions[0] == positions[1] > 12
    assert positions[2] == -1


@pytest.mark.parametrize("allowance", [0, 401])
def test_a_far_allowance_is_left_out(allowance: int) -> None:
    """A line that would leave no room for the bars, or stand at their foot, is not drawn."""
    bars = [Bar("2026-11-21", 100), Bar("2026-11-22", 0)]
    assert chart_text(bars, allowance, width=40, plain=False) == chart_text(bars, None, width=40, plain=False)


def test_plain_is_ascii() -> None:
    """Without block characters the same chart is of `#` and `|`."""
    text = chart_text(DAYS, 100, width=60, plain=True)
    assert text.isascii()
    assert [line.count("|") for line in text.splitlines()] == [1, 1, 1, 1]
    assert [line.count("#") > 0 for line in text.splitlines()] == [False, True, True, True]


@given(
    messages=st.lists(st.integers(0, 10**12), max_size=8),
    allowance=st.none() | st.integers(0, 10**12),
    width=st.integers(50, 300),
    plain=st.booleans(),
)
def test_a_chart_fits_into_the_terminal(messages: list[int], allowance: int | None, width: int, plain: bool) -> None:
    """Whatever was used, every day has one line, and none is wider than the terminal."""
    bars = [Bar("2026-11-21", number) for number in messages]
    lines = chart_text(bars, allowance, width=width, plain=plain).splitlines()
    assert len(lines) == len(bars)
    assert all(len(line) <= width for line in lines)
    assert [line.split()[-1] for line in lines] == [f"{number:,}" for number in messages]
