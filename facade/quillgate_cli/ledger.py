"""`quillgate ledger`: LedgerService for people who audit and keep it. Must not compute: core counts."""

import sys
from datetime import datetime

import click

from quillgate.v1.ledger_service_pb2 import (
    GetLedgerEntryRequest,
    GetLedgerEntryResponse,
    ListLedgerDaysRequest,
    ReconcileLedgerRequest,
    ReconcileLedgerResponse,
    VerifyLedgerRequest,
    VerifyLedgerResponse,
    VoidLedgerEntryRequest,
)
from quillgate_cli import output
from quillgate_cli.argument import json_option, workspace_option
from quillgate_cli.connection import Core, with_core
from quillgate_cli.days import day_text, first_day_option, last_day_option
from quillgate_cli.failure import ExitCode, Failure
from quillgate_cli.ledger_archive import archive
from quillgate_cli.ledger_entry import print_entry
from quillgate_cli.table import Column

VERIFY_DEADLINE_S = 6 * 3_600.0
"""A day may take two minutes, and a year may be kept."""

RECONCILE_DEADLINE_S = 24 * 3_600.0
"""A provider is asked about 20 requests a second."""

app = click.Group("ledger", help="Every request on record: why it cost what it did, and whether all sums agree.")
request_id_argument = click.argument("request_id")


@app.command()
@request_id_argument
@workspace_option
@json_option
@with_core
def show(core: Core, *, request_id: str, workspace: str | None, as_json: bool) -> None:
    """Show why a request cost what it did: its times, its usage, the formula step by step, and what changed later.

    The platform's admin finds a request of any workspace.
    """
    response = _entry(core, request_id, workspace)
    if as_json:
        output.print_json(output.json_value(response))
    else:
        print_entry(response)


@app.command()
@first_day_option("the first whose rows are kept")
@last_day_option
@workspace_option
@json_option
@with_core
def verify(core: Core, *, first: datetime | None, last: datetime | None, workspace: str | None, as_json: bool) -> None:
    """Hold the sums of each day against its rows, of all workspaces and keys; ends with 1 if anything does not agree.

    Without --workspace all of them are compared. Nothing is changed.
    """
    request = VerifyLedgerRequest(workspace_id=workspace or "", start_day=day_text(first), end_day=day_text(last))
    days = []
    for day in core.stream(core.ledger.VerifyLedger, request, deadline_s=VERIFY_DEADLINE_S):
        days.append(day)
        if not as_json:
            _print_day(day)
    wrong = sum(len(day.discrepancies) for day in days)
    if as_json:
        output.print_json({"days": [output.json_value(day) for day in days]})
    elif not wrong:
        rows = sum(day.row_count for day in days)
        output.print_line(f"{output.count(len(days))} days, {output.count(rows)} rows: every sum agrees.")
    if wrong:
        raise Failure(f"{output.count(wrong)} sums do not agree with the ledger's rows", ExitCode.FAILED)


@app.command("void")
@request_id_argument
@click.option("--note", required=True, help="Why: kept with it, for the audit.")
@workspace_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@with_core
def void(core: Core, *, request_id: str, note: str, workspace: str | None, yes: bool, as_json: bool) -> None:
    """Charge nothing for a request, for good; shows it first and asks. Your key and the note are kept with it.

    Where nobody can be asked, nothing is written without --yes.
    """
    found = _entry(core, request_id, workspace)
    if not as_json:
        print_entry(found)
        output.print_line()
    if not yes and not _is_wanted(f"Charge nothing for these {output.count(found.charged_messages)} messages?"):
        raise Failure("nothing was written; --yes writes without asking", ExitCode.USAGE)
    request = VoidLedgerEntryRequest(request_id=request_id, workspace_id=found.entry.workspace_id, note=note)
    response = core.call(core.ledger.VoidLedgerEntry, request)
    if as_json:
        output.print_json(output.json_value(response))
    else:
        output.print_line("The request is charged nothing.")


@app.command()
@click.option("--upstream", required=True, metavar="PROVIDER", help="Who is asked, such as openrouter.")
@first_day_option("yesterday")
@last_day_option
@click.option("--apply", is_flag=True, help="Correct what differs, by adjustments. Default: only tell.")
@json_option
@with_core
def reconcile(
    core: Core, *, upstream: str, first: datetime | None, last: datetime | None, apply: bool, as_json: bool
) -> None:
    """Ask a provider what it recorded for each request, and tell where the ledger says otherwise.

    Ends with 1 if anything differs and was not corrected. A charge that was corrected before by the same provider is
    corrected once more a day at most, and one that was voided never.
    """
    request = ReconcileLedgerRequest(upstream=upstream, start_day=day_text(first), end_day=day_text(last), apply=apply)
    answers = []
    for answer in core.stream(core.ledger.ReconcileLedger, request, deadline_s=RECONCILE_DEADLINE_S):
        answers.append(answer)
        if not as_json:
            _print_differences(answer)
    differences = [difference for answer in answers for difference in answer.differences]
    compared = sum(answer.compared_count for answer in answers)
    unknown = sum(answer.unknown_count for answer in answers)
    left = sum(not difference.adjusted for difference in differences)
    if as_json:
        totals = {"compared_count": compared, "unknown_count": unknown}
        output.print_json(totals | {"differences": [output.json_value(difference) for difference in differences]})
    else:
        told = f"{output.count(compared)} requests, {output.count(unknown)} of them unknown to {upstream}: "
        output.print_line(
            f"{told}{output.count(len(differences))} differ, {output.count(len(differences) - left)} adjusted."
        )
    if left:
        raise Failure(f"{output.count(left)} requests differ from what {upstream} recorded", ExitCode.FAILED)


@app.command()
@json_option
@with_core
def days(core: Core, *, as_json: bool) -> None:
    """List the days whose rows are kept, oldest first, with their size on disk."""
    response = core.call(core.ledger.ListLedgerDays, ListLedgerDaysRequest())
    if as_json:
        output.print_json(output.json_value(response))
        return
    columns = [Column("DAY", whole=True), Column("ROWS, ABOUT", number=True), Column("KIB", number=True)]
    rows = (
        [day.day, output.count(day.estimated_row_count), output.count(day.size_bytes // 1_024)] for day in response.days
    )
    output.print_table(columns, rows)


app.add_command(archive)


def _entry(core: Core, request_id: str, workspace: str | None) -> GetLedgerEntryResponse:
    request = GetLedgerEntryRequest(request_id=request_id, workspace_id=workspace or "")
    return core.call(core.ledger.GetLedgerEntry, request)


def _print_day(day: VerifyLedgerResponse) -> None:
    extent = f"{output.count(day.row_count)} rows of {output.count(day.workspace_count)} workspaces"
    wrong = len(day.discrepancies)
    output.print_line(f"{day.day}  {extent}  {f'{output.count(wrong)} sums are wrong' if wrong else 'agrees'}")
    for found in day.discrepancies:
        owner = f"{found.workspace_id} {found.key_id}".rstrip()
        values = f"{output.count(found.daily_value)}, the rows {output.count(found.ledger_value)}"
        output.print_line(f"    {owner}  {found.column}: the day says {values}")


def _print_differences(answer: ReconcileLedgerResponse) -> None:
    for found in answer.differences:
        tokens = [
            f"{usage.prompt_tokens:,}+{usage.completion_tokens:,} tokens, {usage.cached_tokens:,} cached"
            for usage in (found.ledger_usage, found.upstream_usage)
        ]
        output.print_line(
            f"{found.workspace_id} {found.request_id}  {output.count(found.ledger_messages)} messages ({tokens[0]}), "
            f"recorded {output.count(found.upstream_messages)} ({tokens[1]}){'  adjusted' if found.adjusted else ''}"
        )


def _is_wanted(question: str) -> bool:
    """Asks, if there is somebody to ask."""
    return sys.stdin is not None and sys.stdin.isatty() and click.confirm(question, default=False, err=True)
