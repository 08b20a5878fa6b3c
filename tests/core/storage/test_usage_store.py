"""Groups of what was used: every dimension, adjustments, dropped days, and that they add up to the daily rows."""

from collections.abc import Callable
from datetime import date, timedelta
from itertools import combinations
from typing import Any

import pytest
from fakes.ledger_days import LedgerDays
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine

from quillgate_core.counting import Usage
from quillgate_core.storage.adjustment_store import SqlAdjustmentStore
from quillgate_core.storage.daily_store import SqlDailyStore
from quillgate_core.storage.engine import make_engine
from quillgate_core.storage.usage_store import SqlUsageStore
from quillgate_core.usage_views import UsageDimension, UsageGroup

MONDAY, TUESDAY, WEDNESDAY = (date(2026, 11, 23) + timedelta(days) for days in range(3))
DIMENSIONS: tuple[UsageDimension, ...] = ("key", "model", "endpoint", "upstream", "day")


@pytest.fixture
def days(engine: Engine) -> LedgerDays:
    """Two workspaces, a key with a name, and partitions for two days."""
    days = LedgerDays(engine)
    days.add_workspace("ws")
    days.add_workspace("other")
    days.add_key("key_1")
    days.add_day(MONDAY)
    days.add_day(TUESDAY)
    return days


def groups(
    days: LedgerDays, *dimensions: UsageDimension, first: date = MONDAY, last: date = TUESDAY, limit: int = 100
) -> list[UsageGroup]:
    """The workspace's groups."""
    return SqlUsageStore(days.engine).breakdown("ws", first, last, dimensions=dimensions, limit=limit)


def test_groups_come_by_messages_then_by_name(days: LedgerDays) -> None:
    """Those with most messages are first, equals in order of their names, and no more than asked for."""
    for model, count in (("b", 1), ("c", 3), ("a", 1)):
        days.add_rows(MONDAY, count, model=model)
    assert [(group.model, group.message_count) for group in groups(days, "model")] == [("c", 3), ("a", 1), ("b", 1)]
    assert [group.model for group in groups(days, "model", limit=2)] == ["c", "a"]


def test_a_group_has_every_sum(days: LedgerDays) -> None:
    """Messages are told apart by whose key paid; tokens, requests and costs are of both."""
    days.add_rows(MONDAY, 2, messages=3)
    days.add_rows(MONDAY, 1, byok=True, cost=None)
    assert groups(days, "key", "day") == [UsageGroup("key_1", "key_1", "", "", "", MONDAY, 6, 1, 30, 12, 15, 3, 14, 1)]


def test_without_dimensions_there_is_one_group(days: LedgerDays) -> None:
    """All of it is one group, also when there is nothing."""
    assert groups(days) == [UsageGroup("", "", "", "", "", None, 0, 0, 0, 0, 0, 0, 0, 0)]
    days.add_rows(MONDAY)
    days.add_rows(TUESDAY, key_id=None)
    assert [group.request_count for group in groups(days)] == [2]


def test_only_the_workspace_and_its_days(days: LedgerDays) -> None:
    """Other workspaces, other days, rows that run and rows that cost nothing are left out."""
    days.add_rows(MONDAY, model="mine")
    days.add_rows(TUESDAY, model="later")
    days.add_rows(MONDAY, model="theirs", workspace_id="other")
    for state in ("open", "released"):
        (request_id,) = days.add_rows(MONDAY, model=state)
        days.run("UPDATE ledger SET state = :state WHERE request_id = :id", state=state, id=request_id)
    assert [group.model for group in groups(days, "model", last=MONDAY)] == ["mine"]


def test_names_of_others_keys_are_not_told(days: LedgerDays) -> None:
    """A key of another workspace, such as an admin's that recorded usage here, is an id without a name."""
    days.add_key("key_admin", workspace_id="other")
    days.add_rows(MONDAY, key_id="key_admin")
    assert [(group.key_id, group.key_name) for group in groups(days, "key")] == [("key_admin", "")]


def test_recovered_rows_count(days: LedgerDays) -> None:
    """A row whose hold was charged is in the sums."""
    (request_id,) = days.add_rows(MONDAY)
    days.run("UPDATE ledger SET state = 'recovered' WHERE request_id = :id", id=request_id)
    assert groups(days)[0].request_count == 1


def test_adjustments_are_in_the_row_s_group(days: LedgerDays) -> None:
    """What was learnt later adds to the group of its request, and makes a price known once."""
    (request_id, _) = days.add_rows(MONDAY, 2, cost=None)
    days.sum_up(MONDAY)
    store = SqlAdjustmentStore(days.engine)
    for source, prompt_tokens in (("openrouter", 40_000), ("settle", 50_000)):
        store.adjust("ws", request_id, source=source, usage=Usage(prompt_tokens), cost_picodollars=11)
    (group,) = groups(days, "model")
    assert (group.message_count, group.request_count, group.input_tokens) == (5, 2, 50_010)
    assert (group.cost_picodollars, group.unpriced_request_count) == (11, 1)


def test_days_whose_rows_were_dropped_stay(days: LedgerDays) -> None:
    """`daily_usage` stands in for rows that are gone, and adds to those of other days."""
    days.add_rows(MONDAY, 2)
    days.run(
        "INSERT INTO daily_usage VALUES ('ws', :day, '', 'a/model', 'metering', '', 3, 1, 100, 10, 20, 4, 9, 2)",
        day=MONDAY - timedelta(1),
    )
    (group,) = groups(days, "model", first=MONDAY - timedelta(1))
    assert group == UsageGroup("", "", "a/model", "", "", None, 5, 1, 120, 18, 30, 6, 23, 2)
    assert {group.key_id for group in groups(days, "key", first=MONDAY - timedelta(1))} == {"", "key_1"}


ROWS = st.lists(
    st.tuples(
        st.sampled_from([MONDAY, TUESDAY, WEDNESDAY]),
        st.sampled_from(["key_1", "key_2", None]),
        st.sampled_from(["a", "b"]),
        st.integers(1, 9),
        st.booleans(),
        st.none() | st.integers(0, 10**12),
        st.none() | st.integers(0, 10**6),
    ),
    max_size=12,
)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS)
def test_every_breakdown_adds_up_to_the_daily_rows(make_database: Callable[[], str], rows: list[Any]) -> None:
    """Whatever was used and corrected, the groups of each set of dimensions sum up to the days' rows."""
    engine = make_engine(make_database())
    days = LedgerDays(engine)
    days.add_workspace("ws")
    for day in (MONDAY, TUESDAY, WEDNESDAY):
        days.add_day(day)
    made = [
        days.add_rows(day, key_id=key_id, model=model, messages=messages, byok=byok, cost=cost)
        for day, key_id, model, messages, byok, cost, _ in rows
    ]
    for day in (MONDAY, TUESDAY, WEDNESDAY):
        days.sum_up(day)
    for (request_id,), (*_, cost, prompt_tokens) in zip(made, rows, strict=True):
        if prompt_tokens is not None:
            SqlAdjustmentStore(engine).adjust(
                "ws", request_id, source="openrouter", usage=Usage(prompt_tokens), cost_picodollars=cost and cost // 2
            )
    daily = SqlDailyStore(engine).daily("ws", MONDAY, WEDNESDAY)
    expected = (
        sum(day.message_count for day in daily),
        sum(day.byok_message_count for day in daily),
        sum(day.input_tokens + day.byok_input_tokens for day in daily),
        sum(day.output_tokens + day.byok_output_tokens for day in daily),
        sum(day.request_count + day.byok_request_count for day in daily),
        sum(day.cost_picodollars + day.byok_cost_picodollars for day in daily),
        sum(day.unpriced_request_count for day in daily),
    )
    for size in range(len(DIMENSIONS) + 1):
        for dimensions in combinations(DIMENSIONS, size):
            found = groups(days, *dimensions, last=WEDNESDAY)
            assert expected == (
                sum(group.message_count for group in found),
                sum(group.byok_message_count for group in found),
                sum(group.input_tokens for group in found),
                sum(group.output_tokens for group in found),
                sum(group.request_count for group in found),
                sum(group.cost_picodollars for group in found),
                sum(group.unpriced_request_count for group in found),
            )
    engine.dispose()
