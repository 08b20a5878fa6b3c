"""Retries are a bounded share of requests."""

from quillgate_core.retry_budget import RetryBudget


def _taken(budget: RetryBudget) -> int:
    count = 0
    while budget.take():
        count += 1
    return count


def test_burst_is_there_from_the_start() -> None:
    """A process that has just started can go on to another upstream."""
    assert _taken(RetryBudget(burst=5)) == 5


def test_a_tenth_of_the_requests_may_be_retried() -> None:
    """Once the savings are spent, 1000 requests pay for 100 retries."""
    budget = RetryBudget()
    _taken(budget)
    retried = 0
    for _ in range(1_000):
        budget.pay_in()
        retried += budget.take()
    assert 99 <= retried <= 100  # a tenth is no binary fraction


def test_savings_are_bounded() -> None:
    """A quiet week does not pay for a storm."""
    budget = RetryBudget(share=1.0, burst=3)
    for _ in range(100):
        budget.pay_in()
    assert _taken(budget) == 3


def test_what_came_to_nothing_is_given_back() -> None:
    """A retry that found nobody is still there, but never more than the burst."""
    budget = RetryBudget(burst=1)
    assert budget.take()
    assert not budget.take()
    budget.give_back()
    budget.give_back()
    assert _taken(budget) == 1
