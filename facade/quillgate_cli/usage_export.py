"""`quillgate usage export`: every request as the ledger has it, for spreadsheets and data warehouses."""

import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Final

import click

from quillgate.v1.metering_service_pb2 import ExportLedgerRequest, ExportLedgerResponse
from quillgate_cli.argument import workspace_option
from quillgate_cli.connection import Core, with_core
from quillgate_cli.days import day_text, first_day_option, last_day_option
from quillgate_cli.failure import ExitCode, Failure, WrongUsage
from quillgate_cli.ledger_files import FORMATS, LedgerFile, ParquetFile, StdoutFile, TextFile

PAUSES_S: Final = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""How long a core that cannot be reached is waited for, each time a little longer; any row begins anew."""


@click.command()
@click.option("--format", "name", type=click.Choice(FORMATS), default="csv", show_default=True, help="Parquet: a file.")
@workspace_option
@click.option("--all-workspaces", is_flag=True, help="Of every workspace; for platform.admin.")
@first_day_option("the first day kept")
@last_day_option
@click.option(
    "--output", "path", metavar="FILE", type=click.Path(path_type=Path), help="Where to. Default: standard output."
)
@click.option("--cursor", metavar="CURSOR", default="", help="Go on behind this cursor, as a failure printed it.")
@click.option("--resume", is_flag=True, help="Go on with FILE where it ended, also with rows that have come since.")
@with_core
def export(
    core: Core,
    *,
    name: str,
    workspace: str | None,
    all_workspaces: bool,
    first: datetime | None,
    last: datetime | None,
    path: Path | None,
    cursor: str,
    resume: bool,
) -> None:
    """Write every request as CSV, JSON lines or Parquet, by day and time.

    `counted_messages` is what was charged when the request ended; `adjusted_counted_messages` is to be added to it.
    A connection that breaks is taken up again where it broke. A text FILE keeps its place in FILE.cursor for --resume.
    """
    if all_workspaces and workspace is not None:
        raise WrongUsage("--workspace and --all-workspaces exclude each other")
    request = ExportLedgerRequest(
        workspace_id=workspace or "",
        all_workspaces=all_workspaces,
        start_day=day_text(first),
        end_day=day_text(last),
    )
    with _file(name, path, cursor, resume) as file:
        request.cursor = file.cursor
        try:
            for message in messages(core, request):
                file.add(message)
        except Failure as failure:
            raise _with_way_on(failure, name, path, request.cursor) from None


def _file(name: str, path: Path | None, cursor: str, resume: bool) -> LedgerFile:
    if resume and (path is None or cursor or name == "parquet"):
        raise WrongUsage("--resume goes with --output, and neither with --cursor nor with parquet")
    if name == "parquet":
        if path is None:
            raise WrongUsage("parquet needs --output")
        return ParquetFile(path, cursor)
    return StdoutFile(name, cursor) if path is None else TextFile(path, name, cursor=cursor, resume=resume)


def messages(
    core: Core, request: ExportLedgerRequest, sleep: Callable[[float], None] = time.sleep
) -> Iterator[ExportLedgerResponse]:
    """Yields every message of an export; moves the request's cursor along, to go on behind it when core goes away.

    Raises Failure when core was not there at the beginning, or is away for longer than half a minute.
    """
    has_begun, tries = False, 0
    while True:
        try:
            for message in core.stream(core.metering.ExportLedger, request):
                yield message
                request.cursor, has_begun, tries = message.cursor, True, 0
            return
        except Failure as failure:
            if failure.exit_code != ExitCode.UNREACHABLE or not has_begun or tries == len(PAUSES_S):
                raise
        sleep(PAUSES_S[tries])
        tries += 1


def _with_way_on(failure: Failure, name: str, path: Path | None, cursor: str) -> Failure:
    """Returns the failure with what goes on where it happened; a Parquet file that is not whole is gone."""
    if name == "parquet" or not cursor:
        return failure
    way_on = f"go on with --cursor {cursor}" if path is None else "go on with --resume"
    return Failure(failure.message, failure.exit_code, hint=f"{failure.hint}; {way_on}" if failure.hint else way_on)
