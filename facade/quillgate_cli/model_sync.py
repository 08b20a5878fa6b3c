"""`quillgate models sync`: what providers serve now, shown first and written only when that is wanted."""

import sys
from typing import Final

import click

from quillgate.v1.catalogue_service_pb2 import ModelChange, ModelDifference, SyncModelsRequest, SyncModelsResponse
from quillgate_cli import output
from quillgate_cli.argument import json_option
from quillgate_cli.connection import Core, with_core
from quillgate_cli.table import Column

SYNC_DEADLINE_S: Final = 90.0
"""Providers are asked at once, and each has a minute."""


@click.command()
@click.option(
    "--provider", "providers", multiple=True, metavar="NAME", help="Ask this one; may be repeated. Default: all."
)
@click.option("--yes", is_flag=True, help="Write the differences without asking.")
@json_option
@with_core
def sync(core: Core, *, providers: tuple[str, ...], yes: bool, as_json: bool) -> None:
    """Read what providers serve now: shows how that differs from the catalogue, then asks whether to write it.

    With --json, or where nobody can be asked, nothing is written without --yes.
    """
    if as_json:
        output.print_json(output.json_value(_sync(core, providers, write=yes)))
        return
    response = _sync(core, providers, write=False)
    _tell(response)
    if not any(map(_is_written, response.differences)):
        output.print_line("nothing to write")
        return
    if not yes and not _is_wanted():
        output.print_line("nothing was written; --yes writes")
        return
    written = _sync(core, providers, write=True)
    if list(written.differences) != list(response.differences):
        _tell(written)
    output.print_line("written" if written.written else "nothing was written")


def _sync(core: Core, providers: tuple[str, ...], *, write: bool) -> SyncModelsResponse:
    request = SyncModelsRequest(providers=providers, dry_run=not write)
    return core.call(core.catalogue.SyncModels, request, deadline_s=SYNC_DEADLINE_S)


def _tell(response: SyncModelsResponse) -> None:
    columns = [
        Column("CHANGE", whole=True),
        Column("MODEL", whole=True),
        Column("PROVIDER", whole=True),
        Column("DETAIL"),
    ]
    rows = ([_word(entry), entry.model_id, entry.provider, entry.detail] for entry in response.differences)
    output.print_table(columns, rows)
    for failure in response.failures:
        print(output.clean(f"not read: {failure}"), file=sys.stderr)


def _word(entry: ModelDifference) -> str:
    """Returns the change as the contract calls it; a newer server's by its number."""
    known = entry.change in ModelChange.values()
    return ModelChange.Name(entry.change).removeprefix("MODEL_CHANGE_").lower() if known else str(entry.change)


def _is_written(entry: ModelDifference) -> bool:
    """Tells whether writing changes anything: what is only told is not."""
    return entry.change != ModelChange.MODEL_CHANGE_INCOMPLETE


def _is_wanted() -> bool:
    """Asks, if there is somebody to ask."""
    return sys.stdin is not None and sys.stdin.isatty() and click.confirm("Write this?", default=False)
