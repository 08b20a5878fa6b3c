"""Hostile text from the server does nothing to a terminal, a table or a script."""

from datetime import UTC, datetime, timedelta

import grpc
import pytest
from fakes.fake_admin_core import FakeAdminCore, FakeError

from quillgate_cli.durations import parse_duration, parse_expiry
from quillgate_cli.failure import WrongUsage
from quillgate_cli.output import clean

from .conftest import Cli

HOSTILE = [
    ("\x1b[2J\x1b]0;owned\x07", "\\x1b[2J\\x1b]0;owned\\x07"),
    ("\x9b31mred", "\\x9b31mred"),
    ("\u202egnp.exe", "\\u202egnp.exe"),
    ("two\r\nlines\ttab\x00", "two\\r\\nlines\\ttab\\x00"),
    ("\u2028\u200b\ufeff", "\\u2028\\u200b\\ufeff"),
    ("[bold red]loud[/] [link=x]y[/link]", "[bold red]loud[/] [link=x]y[/link]"),
    (":smile: [/]", ":smile: [/]"),
    ("Zoë 李 😀 ok", "Zoë 李 😀 ok"),
]


@pytest.mark.parametrize(("name", "shown"), HOSTILE)
def test_hostile_names_are_spelt_out(cli: Cli, core: FakeAdminCore, name: str, shown: str) -> None:
    """Control characters and markup in names are shown as text, in tables and in facts; plain letters stay."""
    key_id = core.add_key(name).key_id
    for outcome in (cli("keys", "list"), cli("keys", "show", key_id)):
        assert shown in outcome.out
        assert all(ch == "\n" or ch.isprintable() for ch in outcome.out)


@pytest.mark.parametrize(("name", "shown"), HOSTILE)
def test_hostile_names_in_json_are_ascii_and_exact(cli: Cli, core: FakeAdminCore, name: str, shown: str) -> None:
    """JSON holds the exact name, escaped so that no terminal can misread it."""
    core.add_workspace(name)
    outcome = cli("workspaces", "list", "--json")
    assert outcome.json["workspaces"][1]["name"] == name
    assert all(ch == "\n" or " " <= ch <= "~" for ch in outcome.out)
    assert shown == clean(name)


def test_hostile_messages_are_one_line(cli: Cli, core: FakeAdminCore) -> None:
    """An error message with line breaks and escape sequences stays one harmless line."""
    core.error = FakeError(
        grpc.StatusCode.INTERNAL, "a\x1b[31m\nquillgate: all is well", "INTERNAL", {"request_id": ""}
    )
    assert cli("usage").err == "quillgate: a\\x1b[31m\\nquillgate: all is well\n"


def test_a_time_that_is_none_does_not_end_the_list(cli: Cli, core: FakeAdminCore) -> None:
    """A timestamp outside the calendar is shown as it is."""
    core.add_key("k").expire_time.seconds = 2**62
    assert f"{2**62} s after 1970" in cli("keys", "list").out
    assert cli("keys", "list", "--json").json["keys"][0]["expire_time"] == f"{2**62} s after 1970"


def test_people_see_seconds_and_scripts_see_all(cli: Cli, core: FakeAdminCore) -> None:
    """Fractions of a second are for scripts."""
    core.add_key("k").expire_time.FromJsonString("2031-01-01T00:00:00.123456Z")
    assert "2031-01-01T00:00:00Z" in cli("keys", "list").out
    assert cli("keys", "list", "--json").json["keys"][0]["expire_time"] == "2031-01-01T00:00:00.123456Z"


def test_long_cells_stay_on_their_line_in_a_pipe(cli: Cli, core: FakeAdminCore) -> None:
    """Off a terminal nothing is cut or broken, however long, so that grep finds it."""
    core.add_key("n" * 200, allowed_models=[f"some/model-{number}" for number in range(30)])
    lines = cli("keys", "list").out.splitlines()
    assert len(lines) == 3
    assert "n" * 200 in lines[2]
    assert "some/model-29" in lines[2]
    assert not any(line.endswith(" ") for line in lines)


NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90s", NOW + timedelta(seconds=90)),
        ("1w2d", NOW + timedelta(days=9)),
        ("2027-01-31T00:00:00Z", datetime(2027, 1, 31, tzinfo=UTC)),
        ("2027-01-31t00:00:00.5z", datetime(2027, 1, 31, 0, 0, 0, 500_000, tzinfo=UTC)),
        ("2027-01-31 00:00:00-02:00", datetime(2027, 1, 31, 2, tzinfo=UTC)),
    ],
)
def test_expiries_that_are_understood(text: str, expected: datetime) -> None:
    """Durations count from now; moments are RFC 3339."""
    assert parse_expiry(text, now=NOW) == expected


@pytest.mark.parametrize(
    "text", ["", "0", "d", "1", "1 d", "-1d", "1.5h", "٣d", "2027-01-31", "0001-01-01T00:00:00+23:00"]
)
def test_expiries_that_are_refused(text: str) -> None:
    """Anything else is wrong usage, digits of other scripts too."""
    with pytest.raises(WrongUsage):
        parse_expiry(text, now=NOW)


@pytest.mark.parametrize("text", ["", "d", "12", "1d 2h", "999999999w"])
def test_durations_that_are_refused(text: str) -> None:
    """A number without unit, a blank or a time beyond reckoning is wrong usage."""
    with pytest.raises(WrongUsage):
        parse_duration(text)
