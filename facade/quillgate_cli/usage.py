"""`quillgate usage`: MeteringService for people. Must not compute: core counts."""

from datetime import UTC, date, datetime, timedelta

import click

from quillgate.v1.metering_service_pb2 import (
    DailyMessageCount,
    ListDailyMessageCountRequest,
    ListDailyMessageCountResponse,
)
from quillgate_cli import output
from quillgate_cli.argument import json_option, workspace_option
from quillgate_cli.connection import Core, with_core
from quillgate_cli.days import day_text, first_day_option, last_day_option
from quillgate_cli.default_command import DefaultCommand
from quillgate_cli.money import dollars
from quillgate_cli.table import Column
from quillgate_cli.usage_chart import Bar, chart_text
from quillgate_cli.usage_export import export
from quillgate_cli.usage_top import top

_TITLES = ("MESSAGES", "HELD", "INPUT", "CACHED", "OUTPUT", "REQUESTS", "OWN KEYS", "USD")
_DEFAULT_DAYS = 30


class _DaysByDefault(DefaultCommand):
    default = "days"


app = _DaysByDefault(
    "usage",
    commands=[top, export],
    help="What workspaces used: day by day, by whom, and request by request. Shows days when no command is given.",
    short_help="Show what a workspace used and has left.",
)


@app.command()
@workspace_option
@first_day_option()
@last_day_option
@click.option("--chart", is_flag=True, help="Draw the days as bars, with the allowance as a line.")
@json_option
@with_core
def days(
    core: Core, *, workspace: str | None, first: datetime | None, last: datetime | None, chart: bool, as_json: bool
) -> None:
    """Show what a workspace used, day by day, and what is left today.

    OWN KEYS are messages served with the workspace's own provider keys, in no other column. USD is what providers
    charge the gateway for the others, at list prices; a + says that the price of some is not known.
    """
    request = ListDailyMessageCountRequest(
        workspace_id=workspace or "", start_day=day_text(first), end_day=day_text(last)
    )
    response = core.call(core.metering.ListDailyMessageCount, request)
    if as_json:
        output.print_json(output.json_value(response))
        return
    if chart:
        output.write(_chart(response, first, last))
    elif response.days:
        columns = [Column("DAY", whole=True), *(Column(title, number=True) for title in _TITLES)]
        output.print_table(columns, map(_row, response.days))
    else:
        output.print_line("No usage in these days.")
    if chart or response.days:
        output.print_line()
    output.print_line(_summary(response))


def _row(day: DailyMessageCount) -> list[str]:
    tokens = [day.input_tokens, day.cached_tokens, day.output_tokens]
    counts = [day.message_count, day.held_messages, *tokens, day.request_count, day.byok_message_count]
    return [day.day, *map(output.count, counts), _cost(day)]


def _cost(day: DailyMessageCount) -> str:
    return dollars(
        day.cost_picodollars,
        requests=day.request_count + day.byok_request_count,
        unpriced_requests=day.unpriced_request_count,
    )


def _chart(response: ListDailyMessageCountResponse, first: datetime | None, last: datetime | None) -> str:
    """Draws every day of the range, oldest first, also those without usage."""
    end = last.date() if last is not None else _today(response)
    start = first.date() if first is not None else end - timedelta(_DEFAULT_DAYS)
    used = {day.day: day for day in response.days}
    none = DailyMessageCount()
    bars = []
    for number in range((end - start).days + 1):
        name = (start + timedelta(number)).isoformat()
        day = used.get(name, none)
        bars.append(Bar(name, day.message_count, day.byok_message_count))
    allowance = response.daily_message_allowance if response.HasField("daily_message_allowance") else None
    return chart_text(bars, allowance, width=output.room() or 80, plain=not output.can_show("█▏┊"))


def _today(response: ListDailyMessageCountResponse) -> date:
    """Returns the server's today: the day before the allowance resets."""
    return (datetime.fromtimestamp(response.reset_time.seconds, UTC) - timedelta(days=1)).date()


def _summary(response: ListDailyMessageCountResponse) -> str:
    if not response.HasField("daily_message_allowance"):
        return "Allowance: no limit."
    allowance, left = output.count(response.daily_message_allowance), output.count(response.remaining_messages)
    return f"Allowance: {allowance} messages a day, {left} left today; resets {output.moment(response, 'reset_time')}."
