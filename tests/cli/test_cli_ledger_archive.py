"""`quillgate ledger archive`: files that are whole or not there, and days that are dropped only after that."""

import csv
import io
from pathlib import Path

import grpc
import msgspec
import pyarrow.parquet
import pytest
from fakes.fake_admin_core import FakeAdminCore, FakeError

from quillgate.v1 import ledger_service_pb2 as pb
from quillgate.v1 import metering_service_pb2 as metering
from quillgate_cli.ledger_columns import COLUMNS

from .conftest import Cli, Outcome


@pytest.fixture
def archive(cli: Cli, core: FakeAdminCore, tmp_path: Path) -> "Archive":
    """Two days of three requests each."""
    return Archive(cli, core, tmp_path)


class Archive:
    """A core with days to archive, and the directory they go to."""

    def __init__(self, cli: Cli, core: FakeAdminCore, directory: Path) -> None:
        self.cli = cli
        self.core = core
        self.directory = directory
        core.ledger.days = [pb.LedgerDay(day=day) for day in ("2026-11-16", "2026-11-17", "2026-11-18")]
        entry = metering.LedgerEntry(workspace_id="ws_1", request_id='r"1', state=metering.RESERVATION_STATE_SETTLED)
        entry.adjustments.add(source="void", note="ours, sorry")
        messages = [
            metering.ExportLedgerResponse(entries=[entry, metering.LedgerEntry(request_id="r2")], cursor="a"),
            metering.ExportLedgerResponse(entries=[metering.LedgerEntry(request_id="r3", cost_picodollars=7)]),
        ]
        core.exports = [[*messages] for _ in range(6)]

    def __call__(self, *arguments: str, before: str = "2026-11-18") -> Outcome:
        return self.cli("ledger", "archive", "--before", before, "--to", str(self.directory), *arguments)

    def names(self) -> list[str]:
        """The files that are there."""
        return sorted(path.name for path in self.directory.iterdir())


def test_each_day_becomes_a_file_and_is_dropped(archive: Archive) -> None:
    """All workspaces' rows of one day are exported, then just as many are dropped, day by day."""
    outcome = archive("--yes")
    assert archive.names() == ["ledger-2026-11-16.jsonl", "ledger-2026-11-17.jsonl"]
    assert outcome.out.splitlines()[0] == (
        f"2026-11-16  3 rows are in {archive.directory}/ledger-2026-11-16.jsonl and no longer in the database"
    )
    listed, export, drop, second_export, _ = archive.core.requests
    assert listed == pb.ListLedgerDaysRequest()
    assert export == metering.ExportLedgerRequest(all_workspaces=True, start_day="2026-11-16", end_day="2026-11-16")
    assert drop == pb.DropLedgerDayRequest(day="2026-11-16", row_count=3)
    assert second_export.start_day == "2026-11-17"


def test_lines_hold_every_field(archive: Archive) -> None:
    """JSON has the contract's names, words for states, and null for what is not known."""
    archive("--yes")
    lines = (archive.directory / "ledger-2026-11-16.jsonl").read_bytes().splitlines()
    first, second, third = map(msgspec.json.decode, lines)
    assert set(first) == {column.name for column in COLUMNS}
    assert (first["state"], first["usage_source"], first["request_id"]) == ("settled", "", 'r"1')
    assert first["adjustments"][0]["note"] == "ours, sorry"
    assert (second["cost_picodollars"], third["cost_picodollars"]) == (None, 7)


def test_csv_holds_every_field(archive: Archive) -> None:
    """The same with a line of titles; adjustments are JSON in their cell."""
    archive("--yes", "--format", "csv")
    text = (archive.directory / "ledger-2026-11-16.csv").read_bytes().decode()
    first, second, third = csv.DictReader(io.StringIO(text, newline=""))
    assert (first["state"], first["request_id"], first["settle_time"]) == ("settled", 'r"1', "")
    assert msgspec.json.decode(first["adjustments"])[0]["note"] == "ours, sorry"
    assert (second["adjustments"], second["cost_picodollars"], third["cost_picodollars"]) == ("", "", "7")


def test_parquet_holds_every_field(archive: Archive) -> None:
    """Numbers are numbers and unknown ones null."""
    archive("--yes", "--format", "parquet")
    first, second, third = pyarrow.parquet.read_table(archive.directory / "ledger-2026-11-16.parquet").to_pylist()
    assert set(first) == {column.name for column in COLUMNS}
    assert (first["state"], first["request_id"], first["byok"], first["held_messages"]) == ("settled", 'r"1', False, 0)
    assert msgspec.json.decode(first["adjustments"])[0]["note"] == "ours, sorry"
    assert (second["cost_picodollars"], third["cost_picodollars"]) == (None, 7)


def test_a_core_that_goes_away_for_a_moment_is_waited_for(archive: Archive) -> None:
    """The export goes on where it broke off, and the day is dropped with every row in its file."""
    first, second = archive.core.exports[0]
    archive.core.exports = [[first, FakeError(grpc.StatusCode.UNAVAILABLE, "gone")], [second]]
    assert archive("--yes", before="2026-11-17").code == 0
    lines = (archive.directory / "ledger-2026-11-16.jsonl").read_bytes().splitlines()
    assert [msgspec.json.decode(line)["request_id"] for line in lines] == ['r"1', "r2", "r3"]
    _, begun, resumed, drop = archive.core.requests
    assert (begun.cursor, resumed.cursor, drop.row_count) == ("", "a", 3)


def test_a_day_that_is_kept_keeps_its_file(archive: Archive) -> None:
    """When the server refuses to drop a day the command fails there; the next run writes the file anew."""
    archive.core.ledger.broken = True
    outcome = archive("--yes")
    assert (outcome.code, archive.names()) == (1, ["ledger-2026-11-16.jsonl"])
    archive.core.ledger.broken = False
    assert archive("--yes").code == 0


def test_an_export_that_fails_leaves_no_file_and_no_gap(archive: Archive) -> None:
    """Nothing is dropped whose file is not whole, and half a file never has the file's name."""
    archive.core.exports = [[archive.core.exports[0][0], FakeError(grpc.StatusCode.RESOURCE_EXHAUSTED, "no more")]]
    assert archive("--yes").code != 0
    assert archive.names() == []
    assert not any(isinstance(request, pb.DropLedgerDayRequest) for request in archive.core.requests)


def test_nobody_who_can_be_asked_means_no(archive: Archive) -> None:
    """Without --yes nothing is written off a terminal."""
    outcome = archive()
    assert (outcome.code, archive.names(), len(archive.core.requests)) == (2, [], 1)
    assert "--yes" in outcome.err


def test_nothing_to_archive_is_said(archive: Archive) -> None:
    """Days from the named one on are left alone."""
    assert archive(before="2026-11-16").out == "No rows of such days are kept.\n"
    assert archive("--json", before="2026-11-16").json == {"days": []}
    assert archive.names() == []


def test_a_directory_that_is_not_there_is_wrong_usage(archive: Archive) -> None:
    """Nothing is sent."""
    outcome = archive.cli("ledger", "archive", "--before", "2026-11-18", "--to", "/nowhere", "--yes")
    assert (outcome.code, archive.core.requests) == (2, [])


def test_archive_as_json(archive: Archive) -> None:
    """Scripts get each day, its rows and its file."""
    document = archive("--yes", "--json", before="2026-11-17").json
    path = str(archive.directory / "ledger-2026-11-16.jsonl")
    assert document == {"days": [{"day": "2026-11-16", "row_count": 3, "path": path}]}
