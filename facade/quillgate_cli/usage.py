"""`quillgate usage` and `quillgate quote`: MeteringService for people. Must not compute: core counts."""

from datetime import datetime
from typing import Annotated

import typer

from quillgate.v1.metering_service_pb2 import (
    DailyMessageCount,
    ListDailyMessageCountRequest,
    ListDailyMessageCountResponse,
    QuoteMessagesRequest,
    TokenUsage,
)
from quillgate_cli import output
from quillgate_cli.argument import MAX_INT64, AsJson, WorkspaceOption
from quillgate_cli.connection import Core, with_core
from quillgate_cli.output import Column

_DAY = "%Y-%m-%d"
_TITLES = ("MESSAGES", "HELD", "INPUT", "CACHED", "OUTPUT", "REQUESTS")


@with_core
def usage(
    core: Core,
    workspace: WorkspaceOption = None,
    first: Annotated[
        datetime | None,
        typer.Option("--from", metavar="DAY", formats=[_DAY], help="YYYY-MM-DD, UTC. Default: 30 days before --to."),
    ] = None,
    last: Annotated[
        datetime | None, typer.Option("--to", metavar="DAY", formats=[_DAY], help="YYYY-MM-DD, UTC. Default: today.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a workspace used, day by day, and what is left today."""
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


@with_core
def quote(
    core: Core,
    prompt: Annotated[int, typer.Option(min=0, max=MAX_INT64, help="Tokens of the prompt, cached ones included.")],
    completion: Annotated[int, typer.Option(min=0, max=MAX_INT64, help="Tokens of the answer.")] = 0,
    cached: Annotated[int, typer.Option(min=0, max=MAX_INT64, help="Those of the prompt read from a cache.")] = 0,
    as_json: AsJson = False,
) -> None:
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
    return [day.day, *map(output.count, [day.message_count, day.held_messages, *tokens, day.request_count])]


def _summary(response: ListDailyMessageCountResponse) -> str:
    if not response.HasField("daily_message_allowance"):
        return "Allowance: no limit."
    allowance, left = output.count(response.daily_message_allowance), output.count(response.remaining_messages)
    return f"Allowance: {allowance} messages a day, {left} left today; resets {output.moment(response, 'reset_time')}."
