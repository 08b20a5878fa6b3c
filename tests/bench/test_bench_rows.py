"""The bench's table tells the truth about targets, medians and ratios."""

import pytest
from row import Row, medians, number, ratio, table


@pytest.mark.parametrize(
    ("value", "target", "at_least", "met"),
    [
        (0.3, 0.3, False, True),
        (0.31, 0.3, False, False),
        (3_000.0, 3_000, True, True),
        (2_999.0, 3_000, True, False),
        (1.0, None, False, None),
    ],
)
def test_a_target_is_the_most_or_the_least(
    value: float, target: float | None, at_least: bool, met: bool | None
) -> None:
    """A cost may be as high as its target, a rate as low; without a target nothing is said."""
    row = Row("work", "figure", value, target, at_least=at_least)
    assert row.met is met
    assert ("MISSED" in table([row]), " met" in table([row])) == (met is False, met is True)


def test_several_runs_count_as_their_median() -> None:
    """Each figure's median is taken alone, and a row that only one run had stays."""
    runs = [[Row("a", "x", 1), Row("a", "y", 9)], [Row("a", "x", 5), Row("a", "y", 1)], [Row("a", "x", 2)]]
    runs[2].append(Row("b", "failed", 3))
    assert [(row.work, row.figure, row.value) for row in medians(runs)] == [
        ("a", "x", 2),
        ("a", "y", 5),
        ("b", "failed", 3),
    ]


def test_a_ratio_says_how_many_times_better_ours_is() -> None:
    """Half the cost is two times better, so is double the rate; nothing is divided by nothing."""
    assert ratio(Row("w", "CPU", 2), Row("w", "CPU", 4)) == 2
    assert ratio(Row("w", "rate", 4, at_least=True), Row("w", "rate", 2, at_least=True)) == 2
    assert ratio(Row("w", "CPU", 0), Row("w", "CPU", 4)) is None


def test_figures_keep_what_matters() -> None:
    """Small figures have three decimals, large ones none."""
    assert [number(value) for value in (0.1234, 12.34, 180.4, 42_105.2)] == ["0.123", "12.3", "180.4", "42,105"]
