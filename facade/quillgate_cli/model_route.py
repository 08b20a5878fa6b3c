"""`quillgate models explain`: where a request would go now, and why. Must not decide anything: core does."""

import click

from quillgate.v1.model_service_pb2 import ExplainModelRequest, RouteStep
from quillgate_cli import output
from quillgate_cli.argument import json_option, workspace_option
from quillgate_cli.connection import Core, with_core
from quillgate_cli.table import Column

_COLUMNS = (
    Column("", number=True),
    Column("UPSTREAM", whole=True),
    Column("KEY"),
    Column("PRIORITY", number=True),
    Column("WEIGHT", number=True),
    Column("BREAKER"),
    Column("IN FLIGHT", number=True),
    Column("MS", number=True),
    Column("FAILED", number=True),
    Column("WHY"),
)


@click.command()
@click.argument("model_id", metavar="ID")
@workspace_option
@click.option("--endpoint", metavar="NAME", help="Such as responses. Default: the first that the model has.")
@click.option("--session", metavar="TEXT", help="The conversation, as prompt_cache_key or x-session-id name it.")
@json_option
@with_core
def explain(
    core: Core, *, model_id: str, workspace: str | None, endpoint: str | None, session: str | None, as_json: bool
) -> None:
    """Show which upstreams a request for a model would try now, in order, and why. Sends nothing.

    Breakers, load and latency are those that the core which answers has seen in the last seconds.
    """
    request = ExplainModelRequest(
        id=model_id, workspace_id=workspace or "", endpoint=endpoint or "", session=session or ""
    )
    response = core.call(core.models.ExplainModel, request)
    if as_json:
        output.print_json(output.json_value(response))
        return
    if response.model != model_id:
        output.print_line(f"{model_id} is an alias of {response.model}.")
    output.print_table(_COLUMNS, [_row(place, step) for place, step in enumerate(response.steps, 1)])


def _row(place: int, step: RouteStep) -> list[str]:
    most = f"/{step.max_in_flight}" if step.max_in_flight else ""
    return [
        str(place) if step.eligible else "-",
        f"{step.provider}/{step.upstream_model}",
        "own" if step.byok else "house",
        str(step.priority),
        str(step.weight),
        step.breaker.replace("_", " "),
        f"{step.in_flight}{most}",
        f"{step.latency_ms:.0f}" if step.latency_ms else "?",
        f"{step.recent_failures}/{step.recent_requests}",
        step.reason,
    ]
