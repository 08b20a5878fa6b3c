"""`quillgate usage top`: who and what used most. Must not compute: core counts."""

from collections.abc import Callable
from datetime import datetime
from typing import Final

import click

from quillgate.v1.metering_service_pb2 import ListUsageBreakdownRequest, UsageBreakdown, UsageDimension
from quillgate_cli import output
from quillgate_cli.argument import json_option, workspace_option
from quillgate_cli.connection import Core, with_core
from quillgate_cli.days import day_text, first_day_option, last_day_option
from quillgate_cli.money import dollars
from quillgate_cli.table import Column

DEADLINE_S: Final = 45.0
"""Sums over a month of requests take their time: core itself gives up after 35 s."""

DEFAULT_LIMIT: Final = 20
MAX_LIMIT: Final = 10_000
_TITLES: Final = ("MESSAGES", "OWN KEYS", "INPUT", "CACHED", "OUTPUT", "REQUESTS", "USD")
_DIMENSIONS: Final[dict[str, Callable[[UsageBreakdown], str]]] = {
    "key": lambda row: row.key_id or "-",
    "model": lambda row: row.model or "-",
    "endpoint": lambda row: row.endpoint or "-",
    "upstream": lambda row: row.upstream or "-",
    "day": lambda row: row.day,
}


@click.command()
@click.option(
    "--by",
    "dimensions",
    type=click.Choice(list(_DIMENSIONS)),
    multiple=True,
    default=("model",),
    show_default=True,
    help="What to break usage down by; may be given several times.",
)
@workspace_option
@first_day_option()
@last_day_option
@click.option("--limit", type=click.IntRange(1, MAX_LIMIT), default=DEFAULT_LIMIT, show_default=True, help="Most rows.")
@json_option
@with_core
def top(
    core: Core,
    *,
    dimensions: tuple[str, ...],
    workspace: str | None,
    first: datetime | None,
    last: datetime | None,
    limit: int,
    as_json: bool,
) -> None:
    """Show who or what used most, by key, model, endpoint, upstream or day.

    OWN KEYS are messages served with the workspace's own provider keys. All other columns but MESSAGES are of both
    kinds; USD is what providers charge at list prices, and a + says that the price of some is not known.
    """
    asked = [name for name in _DIMENSIONS if name in dimensions]
    request = ListUsageBreakdownRequest(
        workspace_id=workspace or "",
        start_day=day_text(first),
        end_day=day_text(last),
        dimensions=[UsageDimension.Value(f"USAGE_DIMENSION_{name.upper()}") for name in asked],
        limit=limit,
    )
    response = core.call(core.metering.ListUsageBreakdown, request, deadline_s=DEADLINE_S)
    if as_json:
        output.print_json(output.json_value(response))
        return
    if not response.rows:
        output.print_line("No usage in these days.")
        return
    columns = [Column(name.upper(), whole=name in ("key", "day")) for name in asked]
    if "key" in asked:
        columns.insert(1, Column("NAME"))
    columns += [Column(title, number=True) for title in _TITLES]
    output.print_table(columns, (_row(row, asked) for row in response.rows))
    if response.truncated:
        output.print_line()
        output.print_line(f"There is more: these are the first {output.count(limit)}.")


def _row(row: UsageBreakdown, asked: list[str]) -> list[str]:
    names = [_DIMENSIONS[name](row) for name in asked]
    if "key" in asked:
        names.insert(1, row.key_name)
    tokens = [row.input_tokens, row.cached_tokens, row.output_tokens]
    counts = [row.message_count, row.byok_message_count, *tokens, row.request_count]
    cost = dollars(row.cost_picodollars, requests=row.request_count, unpriced_requests=row.unpriced_request_count)
    return [*names, *map(output.count, counts), cost]
