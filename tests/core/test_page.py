"""Page tokens and page sizes: what comes back in is what went out, everything else is refused."""

import base64
import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quillgate_core.errors import InvalidRequest
from quillgate_core.page import PageStart, check_page_size, parse_page_token

_ID = "key_" + "a" * 20


@given(st.datetimes(timezones=st.just(UTC)))
def test_token_comes_back_exactly(create_time: datetime) -> None:
    """The place that a token stands for is kept to the microsecond."""
    start = PageStart(create_time, _ID)
    assert parse_page_token(start.token()) == start


def _encode(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode()


@pytest.mark.parametrize(
    "token",
    [
        "x",
        "é",
        "\ud800",
        "A" * 201,
        _encode("text"),
        _encode([]),
        _encode({"a": 1, "b": 2}),
        _encode([1, 2]),
        _encode(["2026-01-01T00:00:00", _ID]),
        _encode(["2026-01-01T00:00:00+00:00", "key_\0"]),
        _encode(["2026-01-01T00:00:00+00:00", _ID, 3]),
        base64.urlsafe_b64encode(b"\xff\xff").decode(),
    ],
)
def test_anything_else_is_refused(token: str) -> None:
    """A token that was not given out here is a bad request, never a crash."""
    with pytest.raises(InvalidRequest) as caught:
        parse_page_token(token)
    assert caught.value.metadata == {"param": "page_token"}


@given(st.text())
def test_no_text_crashes(token: str) -> None:
    """Any text is the first page, a place, or a bad request."""
    try:
        parse_page_token(token)
    except InvalidRequest:
        pass


def test_page_size_has_a_default_and_limits() -> None:
    """0 is 100; 1 to 1,000 are taken as they are; beyond is refused."""
    assert [check_page_size(size) for size in (0, 1, 999, 1_000)] == [100, 1, 999, 1_000]
    for size in (-1, 1_001):
        with pytest.raises(InvalidRequest):
            check_page_size(size)
