"""`quillgate usage export`: formats, files that can be gone on with, and connections that break."""

import csv
import io
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pyarrow.parquet
import pytest
from fakes.fake_admin_core import FakeAdminCore, FakeError

from quillgate.v1 import metering_service_pb2 as pb
from quillgate_cli.connection import open_core
from quillgate_cli.failure import Failure
from quillgate_cli.usage_export import PAUSES_S, messages

from .conftest import Cli, CliProcess

AWAY = FakeError(grpc.StatusCode.UNAVAILABLE, "The database is away.", "OVERLOADED", {"retry_after_s": "2"})


def entry(number: int, **fields: Any) -> pb.LedgerEntry:
    """A settled request."""
    given = {
        "workspace_id": "ws_1", "request_id": f"req_{number}", "day": "2026-11-23", "key_id": "key_1",
        "state": pb.RESERVATION_STATE_SETTLED, "model": "a/model", "held_messages": 2, "counted_messages": 1,
        "prompt_tokens": 10, "completion_tokens": 5, "usage_source": pb.USAGE_SOURCE_PROVIDER,
        "cost_picodollars": 7, "reserve_time_us": 1_795_437_296_000_000 + number, "settle_time_us": 0,
    }  # fmt: skip
    return pb.LedgerEntry(**{**given, **fields})


def message(*numbers: int, **fields: Any) -> pb.ExportLedgerResponse:
    """A message with the rows of some numbers, whose cursor names the last."""
    return pb.ExportLedgerResponse(
        entries=[entry(number, **fields) for number in numbers], cursor=f"behind-{numbers[-1]}"
    )


def adjusted() -> pb.ExportLedgerResponse:
    """A message with a row that two adjustments belong to."""
    response = message(1, byok=True)
    added = response.entries[0].adjustments
    added.add(source="openrouter", counted_messages=3, prompt_tokens=40_000, cost_picodollars=5)
    added.add(source="void", counted_messages=-4, actor_key_id="key_9", note="a mistake")
    response.entries[0].ClearField("cost_picodollars")
    return response


def rows(text: str) -> list[dict[str, str]]:
    """CSV text as rows."""
    return list(csv.DictReader(io.StringIO(text, newline="")))


def ids(text: str) -> list[str]:
    """The request ids of CSV text."""
    return [row["request_id"] for row in rows(text)]


def test_csv_is_the_default(cli: Cli, core: FakeAdminCore) -> None:
    """A line of names, then a line per request with words for states and RFC 3339 for times."""
    core.exports = [[message(1, 2), adjusted()]]
    first, _, third = rows(cli("usage", "export").out)
    assert first["reserve_time"] == "2026-11-23T12:34:56.000001Z"
    assert (first["settle_time"], first["state"], first["usage_source"], first["byok"]) == (
        "", "settled", "provider", "false",
    )  # fmt: skip
    assert (first["adjusted_counted_messages"], first["adjustment_sources"], first["cost_picodollars"]) == (
        "0",
        "",
        "7",
    )
    assert (third["adjusted_counted_messages"], third["adjusted_prompt_tokens"]) == ("-1", "40000")
    assert (third["adjustment_sources"], third["cost_picodollars"], third["byok"]) == ("openrouter void", "", "true")


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x"])
def test_csv_runs_no_formulas(cli: Cli, core: FakeAdminCore, text: str) -> None:
    """What a caller named its request or model, a spreadsheet shows and does not compute."""
    core.exports = [[message(1, request_id=text, model=text)]]
    (row,) = rows(cli("usage", "export").out)
    assert (row["request_id"], row["model"]) == ("'" + text, "'" + text)


def test_csv_keeps_commas_quotes_and_letters(cli: Cli, core: FakeAdminCore, tmp_path: Path) -> None:
    """Any text comes back as it was."""
    core.exports = [[message(1, request_id='a,"b"', model="Zoë 李")]]
    path = tmp_path / "out.csv"
    assert cli("usage", "export", "--output", str(path)).code == 0
    (row,) = rows(path.read_text(encoding="utf-8"))
    assert (row["request_id"], row["model"]) == ('a,"b"', "Zoë 李")


def test_jsonl_has_every_adjustment(cli: Cli, core: FakeAdminCore) -> None:
    """A JSON object a line, in ASCII, numbers as numbers, what is absent as null, adjustments as they are."""
    core.exports = [[adjusted(), message(2, model="李\u2028")]]
    out = cli("usage", "export", "--format", "jsonl").out
    first, second = (json.loads(line) for line in out.splitlines())
    assert out.isascii()
    assert (first["cost_picodollars"], first["settle_time"], first["byok"], second["model"]) == (
        None, None, True, "李\u2028",
    )  # fmt: skip
    assert [each["source"] for each in first["adjustments"]] == ["openrouter", "void"]
    assert (first["adjustments"][1]["note"], first["adjustments"][1]["cost_picodollars"]) == ("a mistake", None)


def test_parquet_has_types(cli: Cli, core: FakeAdminCore, tmp_path: Path) -> None:
    """Parquet holds the same columns with their types: integers, booleans, times in UTC, nulls."""
    core.exports = [[adjusted(), message(2, 3)]]
    path = tmp_path / "out.parquet"
    assert cli("usage", "export", "--format", "parquet", "--output", str(path)).code == 0
    table = pyarrow.parquet.read_table(path)
    first, second, third = table.to_pylist()
    assert first["reserve_time"] == datetime(2026, 11, 23, 12, 34, 56, 1, tzinfo=UTC)
    assert (first["settle_time"], first["cost_picodollars"], first["byok"]) == (None, None, True)
    assert (second["counted_messages"], second["cost_picodollars"], third["request_id"]) == (1, 7, "req_3")
    assert [path.name for path in tmp_path.iterdir()] == ["out.parquet"]


def test_a_broken_parquet_export_leaves_nothing(cli: Cli, core: FakeAdminCore, tmp_path: Path) -> None:
    """A Parquet file appears when it is whole; a failure leaves neither it nor a part of it."""
    refused = FakeError(grpc.StatusCode.INTERNAL, "No.", "INTERNAL")
    core.exports = [[message(1), refused]]
    outcome = cli("usage", "export", "--format", "parquet", "--output", str(tmp_path / "out.parquet"))
    assert (outcome.code, outcome.err.count("\n")) == (1, 1)
    assert list(tmp_path.iterdir()) == []


def test_parquet_without_pyarrow(cli_process: CliProcess) -> None:
    """An installation without the extra says what to install."""
    program = "import sys; sys.modules['pyarrow'] = None; from quillgate_cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "usage", "export", "--format", "parquet", "--output", "x"]
    process = subprocess.run(command, env=cli_process.environment, capture_output=True, text=True, timeout=60)
    assert process.returncode == 1
    assert "pip install 'quillgate[parquet]'" in process.stderr


def test_what_was_asked_is_sent(cli: Cli, core: FakeAdminCore) -> None:
    """Workspace, days and cursor reach the server; behind a cursor, rows come without the names."""
    core.exports = [[message(3)], []]
    asked = ["--workspace", "ws_7", "--from", "2026-11-01", "--to", "2026-11-02", "--cursor", "behind-2"]
    out = cli("usage", "export", *asked).out
    cli("usage", "export", "--all-workspaces")
    assert core.requests == [
        pb.ExportLedgerRequest(workspace_id="ws_7", start_day="2026-11-01", end_day="2026-11-02", cursor="behind-2"),
        pb.ExportLedgerRequest(all_workspaces=True),
    ]
    assert out.startswith("2026-11-23,")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--workspace", "ws_7", "--all-workspaces"],
        ["--resume"],
        ["--resume", "--output", "x", "--cursor", "y"],
        ["--resume", "--output", "x", "--format", "parquet"],
        ["--format", "parquet"],
        ["--format", "xml"],
    ],
)
def test_what_contradicts_itself_is_refused(cli: Cli, core: FakeAdminCore, arguments: list[str]) -> None:
    """Options that exclude each other are wrong usage, and nothing is sent."""
    assert cli("usage", "export", *arguments).code == 2
    assert core.requests == []


def test_a_break_is_taken_up_again(core: FakeAdminCore, monkeypatch: pytest.MonkeyPatch) -> None:
    """When core goes away, the export goes on behind the last row that came, after growing pauses."""
    monkeypatch.setenv("QUILLGATE_KEY", "qg_live_" + "A" * 36)
    core.exports = [[message(1, 2), AWAY], [AWAY], [message(3), AWAY], [message(4)]]
    pauses: list[float] = []
    with open_core(core.address) as connected:
        got = list(messages(connected, pb.ExportLedgerRequest(), pauses.append))
    assert [each.request_id for response in got for each in response.entries] == ["req_1", "req_2", "req_3", "req_4"]
    assert [request.cursor for request in core.requests] == ["", "behind-2", "behind-2", "behind-3"]
    assert pauses == [PAUSES_S[0], PAUSES_S[1], PAUSES_S[0]]


def test_an_export_does_not_try_for_ever(core: FakeAdminCore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A core that stays away ends it; one that was never there, or that refuses, ends it at once."""
    monkeypatch.setenv("QUILLGATE_KEY", "qg_live_" + "A" * 36)
    refused = FakeError(grpc.StatusCode.NOT_FOUND, "No such workspace.", "WORKSPACE_NOT_FOUND")
    for exports, calls in (
        ([[message(1), AWAY], *([AWAY] for _ in PAUSES_S)], 1 + len(PAUSES_S)),
        ([[AWAY]], 1),
        ([[message(1), refused]], 1),
    ):
        core.exports, core.requests = list(exports), []
        with open_core(core.address) as connected, pytest.raises(Failure):
            list(messages(connected, pb.ExportLedgerRequest(), lambda _: None))
        assert len(core.requests) == calls


def test_a_failure_says_how_to_go_on(cli: Cli, core: FakeAdminCore, tmp_path: Path) -> None:
    """On standard output the cursor is told, for a file `--resume` is enough."""
    refused = FakeError(grpc.StatusCode.INTERNAL, "No.", "INTERNAL")
    core.exports = [[message(1), refused], [message(1), refused]]
    assert "go on with --cursor behind-1" in cli("usage", "export").err
    outcome = cli("usage", "export", "--output", str(tmp_path / "out.csv"))
    assert "go on with --resume" in outcome.err


def test_a_file_is_gone_on_with(cli: Cli, core: FakeAdminCore, tmp_path: Path) -> None:
    """`--resume` appends behind the last whole message, whatever a process that died wrote after it."""
    refused = FakeError(grpc.StatusCode.INTERNAL, "No.", "INTERNAL")
    path = tmp_path / "out.csv"
    core.exports = [[message(1, 2), refused], [message(3)], [], [message(4)]]
    assert cli("usage", "export", "--output", str(path)).code == 1
    with path.open("a") as torn:
        torn.write("2026-11-23,ws_1,req_" * 100)
    for _ in range(3):
        assert cli("usage", "export", "--output", str(path), "--resume").code == 0
    assert ids(path.read_text()) == ["req_1", "req_2", "req_3", "req_4"]
    assert [request.cursor for request in core.requests] == ["", "behind-2", "behind-3", "behind-3"]


def test_a_new_export_begins_anew(cli: Cli, core: FakeAdminCore, tmp_path: Path) -> None:
    """Without `--resume` the file is replaced, and so is its place; also one of no rows has its names."""
    path = tmp_path / "out.csv"
    core.exports = [[message(1, 2)], [], [message(3)]]
    for arguments in ([], [], ["--resume"]):
        assert cli("usage", "export", "--output", str(path), *arguments).code == 0
    assert ids(path.read_text()) == ["req_3"]
    assert core.requests[2].cursor == ""


def test_nothing_to_resume(cli: Cli, core: FakeAdminCore, tmp_path: Path) -> None:
    """A file that no export made, or that was cut since, is not written to."""
    path = tmp_path / "out.csv"
    assert cli("usage", "export", "--output", str(path), "--resume").code == 2
    core.exports = [[message(1)]]
    cli("usage", "export", "--output", str(path))
    path.write_text("short")
    outcome = cli("usage", "export", "--output", str(path), "--resume")
    assert (outcome.code, path.read_text()) == (1, "short")
    assert "shorter" in outcome.err


def test_a_file_that_cannot_be_written(cli: Cli, core: FakeAdminCore, tmp_path: Path) -> None:
    """A directory that is not there is a failure in one line."""
    for name in ("csv", "parquet"):
        outcome = cli("usage", "export", "--format", name, "--output", str(tmp_path / "no" / "out"))
        assert (outcome.code, outcome.err.count("\n")) == (1, 1)
    assert core.requests == []


def test_a_reader_that_goes_away_ends_an_export(cli_process: CliProcess, core: FakeAdminCore) -> None:
    """A closed pipe (`| head`) ends with code 141 and without a word, however long the stream is."""
    core.exports = [[message(*range(1, 2_000)) for _ in range(50)]]
    process = cli_process.start("usage", "export")
    assert process.stdout is not None and process.stderr is not None and process.stdin is not None
    process.stdout.readline()
    process.stdout.close()
    assert (process.stderr.read(), process.wait(30)) == (b"", 141)
    process.stderr.close()
    process.stdin.close()
