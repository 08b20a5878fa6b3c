"""`quillgate usage top`."""

from fakes.fake_admin_core import FakeAdminCore

from quillgate.v1 import metering_service_pb2 as pb

from .conftest import Cli


def fill(core: FakeAdminCore) -> None:
    """Gives the core two groups."""
    core.breakdown.rows.add(
        key_id="key_1", key_name="laptop\x1b[2J", model="a/model", message_count=1_234, byok_message_count=2,
        input_tokens=3, cached_tokens=4, output_tokens=5, request_count=6, cost_picodollars=1_234_560_000,
        unpriced_request_count=1,
    )  # fmt: skip
    core.breakdown.rows.add(message_count=1, request_count=1, unpriced_request_count=1)


def test_top_shows_who_used_most(cli: Cli, core: FakeAdminCore) -> None:
    """A row a group in the server's order, names first; names that could rewrite the terminal are spelt out."""
    fill(core)
    outcome = cli("usage", "top", "--by", "model", "--by", "key")
    lines = outcome.out.splitlines()
    assert lines[0].split() == [
        "KEY", "NAME", "MODEL", "MESSAGES", "OWN", "KEYS", "INPUT", "CACHED", "OUTPUT", "REQUESTS", "USD",
    ]  # fmt: skip
    assert lines[2].split() == ["key_1", "laptop\\x1b[2J", "a/model", "1,234", "2", "3", "4", "5", "6", "0.0012+"]
    assert lines[3].split() == ["-", "-", "1", "0", "0", "0", "0", "1", "unknown"]
    assert len(lines) == 4


def test_top_sends_what_was_asked(cli: Cli, core: FakeAdminCore) -> None:
    """Workspace, days, dimensions and limit reach the server."""
    cli("usage", "top", "--by", "upstream", "--workspace", "ws_7", "--from", "2026-11-01", "--limit", "3")
    cli("usage", "top")
    assert core.requests == [
        pb.ListUsageBreakdownRequest(
            workspace_id="ws_7", start_day="2026-11-01", dimensions=[pb.USAGE_DIMENSION_UPSTREAM], limit=3
        ),
        pb.ListUsageBreakdownRequest(dimensions=[pb.USAGE_DIMENSION_MODEL], limit=20),
    ]


def test_top_says_that_there_is_more(cli: Cli, core: FakeAdminCore) -> None:
    """Rows beyond the limit are not passed over in silence."""
    fill(core)
    core.breakdown.truncated = True
    assert cli("usage", "top", "--limit", "2").out.endswith("There is more: these are the first 2.\n")


def test_top_without_usage(cli: Cli) -> None:
    """No usage is said in words, and is an empty list in JSON."""
    assert cli("usage", "top").out == "No usage in these days.\n"
    assert cli("usage", "top", "--json").json == {"rows": [], "truncated": False}


def test_top_refuses_what_cannot_be(cli: Cli, core: FakeAdminCore) -> None:
    """An unknown dimension or limit is wrong usage, and nothing is sent."""
    for arguments in (["--by", "colour"], ["--limit", "0"], ["--limit", "10001"]):
        assert cli("usage", "top", *arguments).code == 2
    assert core.requests == []
