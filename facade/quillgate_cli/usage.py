"""`quillgate usage` and `quillgate quote`: MeteringService for people. Must not compute: core counts."""

from datetime import datetime
from decimal import Decimal

import click

from quillgate.v1.metering_service_pb2 import (
    DailyMessageCount,
    ListDailyMessageCountRequest,
    ListDailyMessageCountResponse,
    QuoteMessagesRequest,
    TokenUsage,
)
from quillgate_cli import output
from quillgate_cli.argument import AMOUNT, json_option, workspace_option
from quillgate_cli.connection import Core, with_core
from quillgate_cli.table import Column

_DAY = click.DateTime(["%Y-%m-%d"])
_TITLES = ("MESSAGES", "HELD", "INPUT", "CACHED", "OUTPUT", "REQUESTS", "OWN KEYS", "USD")
_PICODOLLARS = 10**12


@click.command(short_help="Show what a workspace used and has left.")
@workspace_option
@click.option("--from", "first", metavar="DAY", type=_DAY, help="YYYY-MM-DD, UTC. Default: 30 days before --to.")
@click.option("--to", "last", metavar="DAY", type=_DAY, help="YYYY-MM-DD, UTC. Default: today.")
@json_option
@with_core
def usage(core: Core, *, workspace: str | None, first: datetime | None, last: datetime | None, as_json: bool) -> None:
    """Show what a workspace used, day by day, and what is left today.

    OWN KEYS are messages served with the workspace's own provider keys, in no other column. USD is what providers
    charge the gateway for the others, at list prices; a + says that the price of some is not known.
    """
    request = ListDailyMessageCountRequest(workspace_id=workspace or "", start_day=_day(first), end_day=_day(last))
    response = core.call(core.metering.ListDailyMessageCount, request)
    if as_json:
        output.print_json(output.json_value(response))
        return
    if response.days:
        columns = [Column("DAY", whole=True), *(Column(title, number=True) for title in _TITLES)]
        output.print_table(columns, map(_row, response.days))
        output.print_line()
    else:
        output.print_line("No usage in these days.")
    output.print_line(_summary(response))


@click.command()
@click.option("--prompt", type=AMOUNT, required=True, help="Tokens of the prompt, cached ones included.")
@click.option("--completion", type=AMOUNT, default=0, show_default=True, help="Tokens of the answer.")
@click.option("--cached", type=AMOUNT, default=0, show_default=True, help="Those of the prompt read from a cache.")
@json_option
@with_core
def quote(core: Core, *, prompt: int, completion: int, cached: int, as_json: bool) -> None:
    """Show how many messages a request with this usage would count."""
    tokens = TokenUsage(prompt_tokens=prompt, cached_tokens=cached, completion_tokens=completion)
    response = core.call(core.metering.QuoteMessages, QuoteMessagesRequest(usage=tokens))
    if as_json:
        output.print_json(output.json_value(response))
        return
    discount = f"{output.count(prompt)} less {output.count(response.cached_discount)} for cached tokens"
    output.print_fields(
        {
            "Messages": output.count(response.counted_messages),
            "Input tokens": f"{output.count(response.effective_input)} ({discount})",
            "Output tokens": output.count(completion),
            "One message": f"{output.count(response.tokens_per_message)} tokens, rounded up",
        }
    )


def _day(moment: datetime | None) -> str:
    return "" if moment is None else moment.date().isoformat()


def _row(day: DailyMessageCount) -> list[str]:
    tokens = [day.input_tokens, day.cached_tokens, day.output_tokens]
    counts = [day.message_count, day.held_messages, *tokens, day.request_count, day.byok_message_count]
    return [day.day, *map(output.count, counts), _cost(day)]


def _cost(day: DailyMessageCount) -> str:
    """What providers charge the gateway, at list prices; `+` where more was used whose price is not known."""
    requests = day.request_count + day.byok_request_count
    if requests and day.unpriced_request_count >= requests:
        return "unknown"
    dollars = Decimal(day.cost_picodollars) / _PICODOLLARS
    return f"{dollars:,.4f}" + ("+" if day.unpriced_request_count else "")


def _summary(response: ListDailyMessageCountResponse) -> str:
    if not response.HasField("daily_message_allowance"):
        return "Allowance: no limit."
    allowance, left = output.count(response.daily_message_allowance), output.count(response.remaining_messages)
    return f"Allowance: {allowance} messages a day, {left} left today; resets {output.moment(response, 'reset_time')}."
