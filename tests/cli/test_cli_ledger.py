"""`quillgate ledger`: what people see of requests, days and differences, and what is only written when wanted."""

import os
import pty
import subprocess
import sys

import pytest
from fakes.fake_admin_core import FakeAdminCore

from quillgate.v1 import ledger_service_pb2 as pb
from quillgate.v1 import metering_service_pb2 as metering

from .conftest import Cli, CliProcess

NOON_US = 1_795_694_400_000_000  # 2026-11-26T12:00:00Z


def fill(core: FakeAdminCore, **members: object) -> metering.LedgerEntry:
    """Gives the core a request of four messages, or another one."""
    entry = core.ledger.shown.entry
    values: dict[str, object] = {
        "workspace_id": "ws_1",
        "request_id": "req_1",
        "day": "2026-11-26",
        "state": metering.RESERVATION_STATE_SETTLED,
        "key_id": "key_1",
        "endpoint": "chat.completions",
        "model": "some/model",
        "upstream": "openrouter",
        "upstream_request_id": "gen-1",
        "held_messages": 5,
        "counted_messages": 4,
        "prompt_tokens": 40_000,
        "cached_tokens": 10_001,
        "completion_tokens": 20_000,
        "usage_source": metering.USAGE_SOURCE_PROVIDER,
        "cost_picodollars": 5_500_000_000,
        "outcome": "complete",
        "reserve_time_us": NOON_US,
        "settle_time_us": NOON_US + 2_345_678,
    }
    for name, value in (values | members).items():
        setattr(entry, name, value)
    core.ledger.shown.charged_messages = entry.counted_messages
    return entry


def count(core: FakeAdminCore) -> None:
    """Lets the core explain the count."""
    steps = core.ledger.shown.count
    steps.cached_discount, steps.effective_input, steps.counted_messages = 5_000, 35_000, 4
    steps.tokens_per_message = 16_000


def test_show_tells_why_a_request_cost_what_it_did(cli: Cli, core: FakeAdminCore) -> None:
    """People read what happened when, the usage, and the formula with its numbers."""
    fill(core)
    count(core)
    out = cli("ledger", "show", "req_1").out
    assert "Charged       4 messages" in out
    assert "Cost          0.005500 USD" in out
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "2026-11-26T12:00:00.000Z reserved 5 held" in lines
    assert "2026-11-26T12:00:02.345Z settled 4 complete, after 2.346 s" in lines
    assert out.endswith(
        "Usage: 40,000 prompt tokens, 10,001 of them cached, and 20,000 completion tokens; as the provider reported.\n"
        "  discount          floor(10,001 cached / 2) = 5,000\n"
        "  effective input   40,000 prompt - 5,000 = 35,000\n"
        "  messages          max(1, ceil((35,000 + 20,000) / 16,000)) = 4\n"
    )


def test_show_tells_what_was_learnt_later(cli: Cli, core: FakeAdminCore) -> None:
    """A correction and a void have their lines, and a void ends the formula."""
    entry = fill(core)
    entry.adjustments.add(source="openrouter", counted_messages=-3, prompt_tokens=-39_990, cached_tokens=-10_001)
    entry.adjustments[0].create_time.seconds = NOON_US // 10**6 + 60
    void = entry.adjustments.add(source="void", counted_messages=-1, prompt_tokens=-10, completion_tokens=-20_000)
    void.cost_picodollars, void.actor_key_id, void.note = -5_500_000_000, "key_admin", "our \x1b[31mfault"
    void.create_time.seconds = NOON_US // 10**6 + 120
    core.ledger.shown.charged_messages = 0
    lines = [" ".join(line.split()) for line in cli("ledger", "show", "req_1").out.splitlines()]
    told = "by openrouter: -39,990 prompt, -10,001 cached, +0 completion tokens"
    assert f"2026-11-26T12:01:00Z adjusted -3 {told}" in lines
    assert r"2026-11-26T12:02:00Z voided -1 by key_admin: our \x1b[31mfault" in lines
    assert "Cost 0.000000 USD" in lines
    assert lines[-2:] == [
        "Usage: 0 prompt tokens, 0 of them cached, and 0 completion tokens; as adjusted.",
        "voided by an admin: nothing is charged",
    ]


@pytest.mark.parametrize(
    ("members", "told"),
    [
        (
            {"state": metering.RESERVATION_STATE_RECOVERED, "usage_source": metering.USAGE_SOURCE_HOLD},
            "the 4 messages that were held are charged",
        ),
        ({"state": metering.RESERVATION_STATE_OPEN, "settle_time_us": 0}, "It has not ended"),
        ({"state": metering.RESERVATION_STATE_RELEASED}, "It was charged nothing"),
        ({"endpoint": "audio.transcriptions"}, "4 messages, counted by something else than tokens"),
        ({"usage_clamped": True}, "was forced into its ranges"),
        ({"byok": True}, "the workspace's own: not drawn from the allowance"),
        ({"overage_messages": 2}, "Beyond the allowance  2"),
        ({"key_id": ""}, "metered by an internal service"),
    ],
)
def test_show_says_what_is_special(cli: Cli, core: FakeAdminCore, members: dict[str, object], told: str) -> None:
    """A hold, a running request, one without charge: each says in words why it cost what it did."""
    fill(core, **members)
    assert told in cli("ledger", "show", "req_1").out


def test_show_as_json(cli: Cli, core: FakeAdminCore) -> None:
    """`--json` prints the response under proto's names; what is absent is null."""
    fill(core)
    document = cli("ledger", "show", "req_1", "--workspace", "ws_1", "--json").json
    assert document["entry"]["prompt_tokens"] == 40_000
    assert (document["charged_messages"], document["count"]) == (4, None)
    (request,) = core.requests
    assert (request.request_id, request.workspace_id) == ("req_1", "ws_1")


def test_verify_prints_a_line_a_day(cli: Cli, core: FakeAdminCore) -> None:
    """Where all agrees it ends with 0 and says how much was compared."""
    core.ledger.checked = [
        pb.VerifyLedgerResponse(day=f"2026-11-{day}", workspace_count=2, row_count=1_500) for day in (25, 26)
    ]
    outcome = cli("ledger", "verify", "--from", "2026-11-25", "--to", "2026-11-26", "--workspace", "ws_1")
    assert (outcome.code, outcome.out) == (
        0,
        "2026-11-25  1,500 rows of 2 workspaces  agrees\n"
        "2026-11-26  1,500 rows of 2 workspaces  agrees\n"
        "2 days, 3,000 rows: every sum agrees.\n",
    )
    (request,) = core.requests
    assert (request.workspace_id, request.start_day, request.end_day) == ("ws_1", "2026-11-25", "2026-11-26")


def wrong_day() -> pb.VerifyLedgerResponse:
    """A day with a wrong sum of a workspace, and one of a key."""
    day = pb.VerifyLedgerResponse(day="2026-11-26", workspace_count=1, row_count=3)
    day.discrepancies.add(workspace_id="ws_1", column="message_count", daily_value=5, ledger_value=4)
    day.discrepancies.add(workspace_id="ws_1", key_id="key_1", column="open_requests", daily_value=0, ledger_value=1)
    return day


def test_verify_ends_with_1_when_sums_are_wrong(cli: Cli, core: FakeAdminCore) -> None:
    """Each wrong sum is told, under its day, with both values."""
    core.ledger.checked = [wrong_day()]
    outcome = cli("ledger", "verify")
    assert outcome.code == 1
    assert outcome.err == "quillgate: 2 sums do not agree with the ledger's rows\n"
    assert outcome.out == (
        "2026-11-26  3 rows of 1 workspaces  2 sums are wrong\n"
        "    ws_1  message_count: the day says 5, the rows 4\n"
        "    ws_1 key_1  open_requests: the day says 0, the rows 1\n"
    )
    outcome = cli("ledger", "verify", "--json")
    assert (outcome.code, outcome.json["days"][0]["discrepancies"][0]["column"]) == (1, "message_count")


def test_verify_that_breaks_off_does_not_agree(cli: Cli, core: FakeAdminCore) -> None:
    """A server that goes away in the middle is no success, and nobody reads that all agrees."""
    core.ledger.checked, core.ledger.broken = [pb.VerifyLedgerResponse(day="2026-11-25")], True
    outcome = cli("ledger", "verify")
    assert outcome.code == 5
    assert "every sum agrees" not in outcome.out


def test_void_needs_a_yes(cli: Cli, core: FakeAdminCore) -> None:
    """Where nobody can be asked, nothing is written without --yes, though the request is shown."""
    fill(core)
    outcome = cli("ledger", "void", "req_1", "--note", "our fault")
    assert (outcome.code, len(core.requests)) == (2, 1)
    assert "--yes" in outcome.err
    assert "some/model" in outcome.out


def test_void_is_of_the_workspace_that_was_shown(cli: Cli, core: FakeAdminCore) -> None:
    """The request, its workspace and the note are sent."""
    fill(core)
    outcome = cli("ledger", "void", "req_1", "--note", "our fault", "--yes")
    assert outcome.out.endswith("The request is charged nothing.\n")
    request = core.requests[-1]
    assert (request.request_id, request.workspace_id, request.note) == ("req_1", "ws_1", "our fault")
    assert cli("ledger", "void", "req_1", "--note", "n", "--yes", "--json").json["entry"]["request_id"] == "req_1"


@pytest.mark.parametrize(("answer", "calls"), [(b"y\n", 2), (b"n\n", 1), (b"\n", 1)])
def test_void_asks_a_person(cli_process: CliProcess, core: FakeAdminCore, answer: bytes, calls: int) -> None:
    """On a terminal the messages are named, and only a yes writes."""
    fill(core)
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "quillgate_cli", "ledger", "void", "req_1", "--note", "n"]
    with subprocess.Popen(
        command, env=cli_process.environment, stdin=follower, stdout=follower, stderr=follower, start_new_session=True
    ) as process:
        shown = b""
        while b"these 4 messages? [y/N]" not in shown:
            shown += os.read(leader, 1024)
        os.write(leader, answer)
        assert process.wait(30) == (0 if calls == 2 else 2)
    os.close(leader)
    os.close(follower)
    assert len(core.requests) == calls


def differences(*, adjusted: bool) -> pb.ReconcileLedgerResponse:
    """Three requests, one of which differs and one of which nobody knows."""
    answer = pb.ReconcileLedgerResponse(compared_count=3, unknown_count=1)
    found = answer.differences.add(workspace_id="ws_1", request_id="req_1", ledger_messages=4, upstream_messages=1)
    found.ledger_usage.prompt_tokens, found.ledger_usage.completion_tokens = 40_000, 20_000
    found.upstream_usage.prompt_tokens, found.upstream_usage.completion_tokens = 10, 5
    found.adjusted = adjusted
    return answer


def test_reconcile_tells_what_differs(cli: Cli, core: FakeAdminCore) -> None:
    """A difference that stays ends with 1; one that was corrected does not."""
    core.ledger.compared = [differences(adjusted=False), pb.ReconcileLedgerResponse(compared_count=1)]
    outcome = cli("ledger", "reconcile", "--upstream", "openrouter", "--from", "2026-11-25")
    assert outcome.code == 1
    assert outcome.err == "quillgate: 1 requests differ from what openrouter recorded\n"
    assert outcome.out == (
        "ws_1 req_1  4 messages (40,000+20,000 tokens, 0 cached), recorded 1 (10+5 tokens, 0 cached)\n"
        "4 requests, 1 of them unknown to openrouter: 1 differ, 0 adjusted.\n"
    )
    (request,) = core.requests
    assert (request.upstream, request.start_day, request.end_day, request.apply) == (
        "openrouter",
        "2026-11-25",
        "",
        False,
    )
    core.ledger.compared = [differences(adjusted=True)]
    outcome = cli("ledger", "reconcile", "--upstream", "openrouter", "--apply", "--json")
    assert (outcome.code, core.requests[-1].apply) == (0, True)
    assert (outcome.json["compared_count"], outcome.json["unknown_count"]) == (3, 1)
    assert outcome.json["differences"][0]["upstream_messages"] == 1


def test_days_are_a_table(cli: Cli, core: FakeAdminCore) -> None:
    """Each day with about how many rows, and how much room they take."""
    core.ledger.days = [pb.LedgerDay(day="2026-11-25", size_bytes=3_145_728, estimated_row_count=12_345)]
    outcome = cli("ledger", "days")
    assert outcome.out.splitlines()[2].split() == ["2026-11-25", "12,345", "3,072"]
    assert cli("ledger", "days", "--json").json["days"][0]["size_bytes"] == 3_145_728
