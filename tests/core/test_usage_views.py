"""What may be asked of the views: ranges, limits, and cursors that are ours."""

import base64
from datetime import date, timedelta
from typing import Any

import pytest
from fakes.usage_stores import DAY, FakeExportStore, FakeUsageStore, group, make_views
from hypothesis import given
from hypothesis import strategies as st

from quillgate_core.errors import InvalidRequest, WorkspaceNotFound
from quillgate_core.usage_views import MAX_DAYS, MAX_GROUPS, ExportPlace, parse_cursor


def test_a_breakdown_has_the_documented_defaults() -> None:
    """The last day is the database's today, the first one 30 days before the last, and the limit is 100."""
    store = FakeUsageStore()
    make_views(store).breakdown("ws_1")
    make_views(store).breakdown("ws_1", end_day=date(2029, 3, 31), dimensions=["key"], limit=7)
    make_views(store).breakdown("ws_1", end_day=date(1, 1, 5))
    assert store.asked == [
        ("ws_1", DAY - timedelta(30), DAY, (), 101),
        ("ws_1", date(2029, 3, 1), date(2029, 3, 31), ("key",), 8),
        ("ws_1", date.min, date(1, 1, 5), (), 101),
    ]


def test_a_breakdown_says_when_there_is_more() -> None:
    """One group beyond the limit is looked for, and never shown."""
    store = FakeUsageStore([group(model=model) for model in "abc"])
    assert [each.model for each in make_views(store).breakdown("ws_1", limit=2)[0]] == ["a", "b"]
    assert [make_views(store).breakdown("ws_1", limit=limit)[1] for limit in (2, 3, 4)] == [True, False, False]


@pytest.mark.parametrize(
    ("arguments", "param"),
    [
        ({"limit": -1}, "limit"),
        ({"limit": MAX_GROUPS + 1}, "limit"),
        ({"dimensions": ["key", "key"]}, "dimensions"),
        ({"start_day": DAY + timedelta(1)}, "start_day"),
        ({"start_day": DAY - timedelta(MAX_DAYS + 1)}, "start_day"),
    ],
)
def test_a_breakdown_is_bounded(arguments: dict[str, Any], param: str) -> None:
    """Limits, ranges and dimensions that cannot be are refused by name, and nothing is read."""
    store = FakeUsageStore()
    with pytest.raises(InvalidRequest) as caught:
        make_views(store).breakdown("ws_1", **arguments)
    assert caught.value.metadata == {"param": param, "code": "invalid_value"}
    assert store.asked == []


def test_the_greatest_range_and_limit_are_read() -> None:
    """What is just within the bounds is served."""
    store = FakeUsageStore()
    make_views(store).breakdown("ws_1", start_day=DAY - timedelta(MAX_DAYS), limit=MAX_GROUPS)
    assert store.asked[0][1:] == (DAY - timedelta(MAX_DAYS), DAY, (), MAX_GROUPS + 1)


def test_an_unknown_workspace_is_told() -> None:
    """A workspace that does not exist is not one without usage, whatever the days."""
    with pytest.raises(WorkspaceNotFound):
        make_views().breakdown("nowhere", end_day=DAY)
    with pytest.raises(WorkspaceNotFound):
        make_views().export_range("nowhere", start_day=None, end_day=DAY, cursor="")


def test_an_export_has_the_documented_defaults() -> None:
    """One workspace's ends today; that of all has no end but the last row."""
    views = make_views()
    assert views.export_range("ws_1", start_day=None, end_day=None, cursor="") == (ExportPlace(date.min), DAY)
    assert views.export_range(None, start_day=DAY, end_day=None, cursor="") == (ExportPlace(DAY), date.max)


def test_an_export_goes_on_behind_its_cursor() -> None:
    """A cursor wins over the first day, unless it is of an earlier one."""
    views, place = make_views(), ExportPlace(DAY, 5, "ws_1", "req_1")
    for start_day in (None, DAY, DAY - timedelta(1)):
        assert views.export_range(None, start_day=start_day, end_day=None, cursor=place.cursor())[0] == place
    tomorrow = DAY + timedelta(1)
    assert views.export_range(None, start_day=tomorrow, end_day=None, cursor=place.cursor())[0] == ExportPlace(tomorrow)


def test_an_export_does_not_run_backwards() -> None:
    """A range whose end is before its start is refused."""
    with pytest.raises(InvalidRequest) as caught:
        make_views().export_range(None, start_day=DAY, end_day=DAY - timedelta(1), cursor="")
    assert caught.value.metadata == {"param": "start_day", "code": "invalid_value"}


def test_a_page_is_asked_for_as_it_is() -> None:
    """Place, workspace and last day reach the store."""
    store = FakeExportStore()
    assert make_views(export=store).export_page(ExportPlace(DAY), workspace_id="ws_1", end_day=DAY, limit=3) is None
    assert store.asked == [(ExportPlace(DAY), "ws_1", DAY)]


@given(
    day=st.dates(),
    reserve_time_us=st.integers(0, 2**47),
    workspace_id=st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=64),
    request_id=st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=128),
)
def test_a_cursor_is_read_back(day: date, reserve_time_us: int, workspace_id: str, request_id: str) -> None:
    """Every place survives its text."""
    place = ExportPlace(day, reserve_time_us, workspace_id, request_id)
    assert parse_cursor(place.cursor()) == place


def encoded(text: str) -> str:
    """A text as cursors are encoded."""
    return base64.urlsafe_b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    "cursor",
    [
        "x",
        "é",
        " ",
        "A" * 1_001,
        encoded("[" * 500),
        encoded("{}"),
        encoded("[]"),
        encoded('["2030-01-01", 1, "ws"]'),
        encoded('["2030-01-01", 1, "ws", "req", 1]'),
        encoded('["2030-01-01", true, "ws", "req"]'),
        encoded('["2030-01-01", 1.0, "ws", "req"]'),
        encoded('["2030-01-01", "1", "ws", "req"]'),
        encoded('["20300101", 1, "ws", "req"]'),
        encoded('["2030-02-30", 1, "ws", "req"]'),
        encoded('["2030-01-01", 1, "ws", 7]'),
        encoded('["2030-01-01", 1, "ws", ["req"]]'),
        encoded('["2030-01-01", 1, "ws", "\\u0000"]'),
        encoded('["2030-01-01", 999999999999999999999, "ws", "req"]'),
        encoded('["2030-01-01",1,"ws","req"]'),
    ],
)
def test_a_cursor_that_is_not_ours_is_refused(cursor: str) -> None:
    """Anything that was not returned by an export is refused by name, and is not an error of ours."""
    with pytest.raises(InvalidRequest) as caught:
        parse_cursor(cursor)
    assert caught.value.metadata == {"param": "cursor", "code": "invalid_value"}
