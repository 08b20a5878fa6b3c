"""`quillgate usage`: days, as a table and as a chart."""

from datetime import date, timedelta

import pytest
from fakes.fake_admin_core import OWN_WORKSPACE, FakeAdminCore

from quillgate.v1.metering_service_pb2 import DailyMessageCount

from .conftest import Cli


def fill(core: FakeAdminCore) -> None:
    """Gives the core two days of usage and an allowance."""
    day = DailyMessageCount(workspace_id=OWN_WORKSPACE, day="2026-11-23", message_count=1, input_tokens=10)
    day.output_tokens, day.request_count, day.cost_picodollars = 5, 1, 1_234_560_000
    before = DailyMessageCount(day="2026-11-22", message_count=1234, held_messages=2, cached_tokens=3)
    core.days.days.extend([day, before])
    core.days.daily_message_allowance = 1000
    core.days.remaining_messages = 999
    core.days.reset_time.seconds = 1_795_478_400


def test_usage_shows_days_and_what_is_left(cli: Cli, core: FakeAdminCore) -> None:
    """People see a row a day and one line with the allowance."""
    fill(core)
    lines = [line.split() for line in cli("usage").out.splitlines()]
    assert lines[0] == ["DAY", "MESSAGES", "HELD", "INPUT", "CACHED", "OUTPUT", "REQUESTS", "OWN", "KEYS", "USD"]
    assert lines[2] == ["2026-11-23", "1", "0", "10", "0", "5", "1", "0", "0.0012"]
    assert lines[3] == ["2026-11-22", "1,234", "2", "0", "3", "0", "0", "0", "0.0000"]
    summary = "Allowance: 1,000 messages a day, 999 left today; resets 2026-11-24T00:00:00Z."
    assert " ".join(lines[-1]) == summary


@pytest.mark.parametrize(
    ("requests", "own", "unpriced", "shown"), [(2, 0, 1, "0.0000+"), (2, 1, 3, "unknown"), (0, 3, 0, "0.0000")]
)
def test_usage_says_which_costs_are_unknown(
    cli: Cli, core: FakeAdminCore, requests: int, own: int, unpriced: int, shown: str
) -> None:
    """A sum that leaves requests out is marked, and one of nothing but unknown prices is no sum."""
    day = DailyMessageCount(day="2026-11-23", request_count=requests, byok_request_count=own, byok_message_count=7)
    day.unpriced_request_count = unpriced
    core.days.days.append(day)
    assert cli("usage").out.splitlines()[2].split()[-2:] == ["7", shown]


def test_usage_as_json(cli: Cli, core: FakeAdminCore) -> None:
    """`--json` prints the response under proto's names, numbers as numbers."""
    fill(core)
    document = cli("usage", "--json").json
    assert document["days"][0] == {
        "workspace_id": OWN_WORKSPACE,
        "day": "2026-11-23",
        "message_count": 1,
        "held_messages": 0,
        "input_tokens": 10,
        "cached_tokens": 0,
        "output_tokens": 5,
        "request_count": 1,
        "byok_message_count": 0,
        "byok_input_tokens": 0,
        "byok_output_tokens": 0,
        "byok_request_count": 0,
        "cost_picodollars": 1_234_560_000,
        "byok_cost_picodollars": 0,
        "unpriced_request_count": 0,
        "overage_message_count": 0,
        "overrun_message_count": 0,
    }
    assert (document["daily_message_allowance"], document["remaining_messages"]) == (1000, 999)
    assert document["reset_time"] == "2026-11-24T00:00:00Z"


def test_usage_without_days_or_limit(cli: Cli) -> None:
    """No usage and no allowance are said in words; in JSON the absent ones are null."""
    assert cli("usage").out == "No usage in these days.\nAllowance: no limit.\n"
    assert cli("usage", "--json").json["daily_message_allowance"] is None


def test_usage_sends_workspace_and_days(cli: Cli, core: FakeAdminCore) -> None:
    """The days are sent as they were given."""
    cli("usage", "--workspace", "ws_7", "--from", "2026-11-01", "--to", "2026-11-23")
    (request,) = core.requests
    assert (request.workspace_id, request.start_day, request.end_day) == ("ws_7", "2026-11-01", "2026-11-23")


@pytest.mark.parametrize("day", ["", "yesterday", "2026-02-30", "2026-11-01T00:00:00", "20261101"])
def test_a_day_that_is_none_is_refused(cli: Cli, core: FakeAdminCore, day: str) -> None:
    """Anything but YYYY-MM-DD ends with code 2, without a call."""
    outcome = cli("usage", "--from", day)
    assert (outcome.code, outcome.out, core.requests) == (2, "", [])
    assert "--from" in outcome.err


def test_days_is_what_usage_does_by_default(cli: Cli, core: FakeAdminCore) -> None:
    """`usage` without a command shows days, with all their options; a command that does not exist is wrong usage."""
    fill(core)
    assert cli("usage", "days", "--workspace", "ws_7").out == cli("usage", "--workspace", "ws_7").out
    assert core.requests[0] == core.requests[1]
    assert cli("usage", "nonsense").code == 2
    assert {"days", "top", "export"} <= set(cli("usage", "--help").out.split())


def test_a_chart_has_every_day(cli: Cli, core: FakeAdminCore) -> None:
    """The last 30 days are drawn oldest first, those without usage too, and what is left is said below."""
    fill(core)
    lines = cli("usage", "--chart").out.splitlines()
    assert [line[:10] for line in lines[:31]] == [
        (date(2026, 10, 24) + timedelta(number)).isoformat() for number in range(31)
    ]
    assert [line.split()[-1] for line in lines[28:31]] == ["0", "1,234", "1"]
    assert "█" in lines[29]
    assert (lines[31], lines[32][:10]) == ("", "Allowance:")


def test_a_chart_of_some_days(cli: Cli, core: FakeAdminCore) -> None:
    """`--from` and `--to` choose the days."""
    fill(core)
    lines = cli("usage", "--chart", "--from", "2026-11-22", "--to", "2026-11-22").out.splitlines()
    assert [line[:10] for line in lines if line.startswith("20")] == ["2026-11-22"]
