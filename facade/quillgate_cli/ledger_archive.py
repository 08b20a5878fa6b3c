"""`quillgate ledger archive`: old days leave the database as files, and are dropped only when the file is safe.

A file appears under its name when it is whole and on the disk. The server drops a day only if it has just as many rows
as were written. Whatever fails in between leaves the day where it is; another run writes the file anew.
"""

import os
import sys
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Final

import click

from quillgate.v1.ledger_service_pb2 import DropLedgerDayRequest, ListLedgerDaysRequest
from quillgate.v1.metering_service_pb2 import ExportLedgerRequest
from quillgate_cli import output
from quillgate_cli.argument import json_option
from quillgate_cli.connection import Core, with_core
from quillgate_cli.days import DAY, day_text
from quillgate_cli.failure import ExitCode, Failure
from quillgate_cli.ledger_files import FORMATS, ParquetFile, TextFile
from quillgate_cli.usage_export import messages

DROP_DEADLINE_S: Final = 300.0
"""Core gives each of its statements two minutes."""


@click.command()
@click.option(
    "--before",
    required=True,
    metavar="DAY",
    type=DAY,
    help="Days before this one, YYYY-MM-DD, UTC; the last 7 are always kept.",
)
@click.option(
    "--to",
    "directory",
    required=True,
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, writable=True, path_type=Path),
    help="Where ledger-YYYY-MM-DD files go; what is there by that name is replaced.",
)
@click.option("--format", "file_format", type=click.Choice(FORMATS), default="jsonl", show_default=True)
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@with_core
def archive(core: Core, *, before: datetime, directory: Path, file_format: str, yes: bool, as_json: bool) -> None:
    """Write the rows of old days to files, a day each, and drop them from the database.

    Daily sums, and the breakdown by key, model, endpoint and upstream, stay for ever; single requests are then in the
    files only. Where nobody can be asked, nothing is done without --yes.
    """
    listed = core.call(core.ledger.ListLedgerDays, ListLedgerDaysRequest())
    days = [day for day in listed.days if day.day < day_text(before)]
    if days and not yes and not _is_wanted(f"Write {len(days)} days to {directory} and drop them?"):
        raise Failure("nothing was done; --yes does not ask", ExitCode.USAGE)
    archived = []
    for day in days:
        path = directory / f"ledger-{day.day}.{file_format}"
        row_count = _export(core, day.day, path, file_format)
        request = DropLedgerDayRequest(day=day.day, row_count=row_count)
        core.call(core.ledger.DropLedgerDay, request, deadline_s=DROP_DEADLINE_S)
        archived.append({"day": day.day, "row_count": row_count, "path": str(path)})
        if not as_json:
            output.print_line(f"{day.day}  {output.count(row_count)} rows are in {path} and no longer in the database")
    if as_json:
        output.print_json({"days": archived})
    elif not archived:
        output.print_line("No rows of such days are kept.")


def _export(core: Core, day: str, path: Path, file_format: str) -> int:
    """Writes a day's rows of all workspaces to a file and returns how many; raises Failure and leaves no file."""
    request = ExportLedgerRequest(all_workspaces=True, start_day=day, end_day=day)
    row_count = 0
    with tempfile.TemporaryDirectory(prefix=".archive-", dir=path.parent) as folder:
        part = Path(folder) / path.name
        with ParquetFile(part) if file_format == "parquet" else TextFile(part, file_format) as file:
            for message in messages(core, request):
                file.add(message)
                row_count += len(message.entries)
        try:
            _sync(part)
            part.replace(path)
            _sync(path.parent)
        except OSError as error:
            raise Failure(f"cannot write {path}: {error.strerror}", ExitCode.FAILED) from None
    return row_count


def _sync(path: Path) -> None:
    """Makes a file durable, or a directory, and with it the names in it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_wanted(question: str) -> bool:
    """Asks, if there is somebody to ask."""
    return sys.stdin is not None and sys.stdin.isatty() and click.confirm(question, default=False, err=True)
