"""`quillgate models`: ModelService for people, and CatalogueService for who runs the service.

`--json` prints OpenAI's own objects, as `GET /models` does; with `--all`, the catalogue under proto's names.
"""

import click

import quillgate_codec
from quillgate.v1.catalogue_service_pb2 import CatalogueModel, ListCatalogueModelsRequest
from quillgate.v1.model_service_pb2 import GetModelRequest, ListModelsRequest, Model
from quillgate_cli import model_route, model_switches, model_sync, output
from quillgate_cli.argument import json_option
from quillgate_cli.connection import Core, with_core
from quillgate_cli.default_command import DefaultCommand
from quillgate_cli.prices import UNKNOWN, per_million, price_lines
from quillgate_cli.table import Column

app = DefaultCommand(
    "models",
    help="The models: those that your key may use, and what is served at all. Lists when no command is given.",
    short_help="The models that your key may use, and what is served at all.",
)

_LIMITS_AND_PRICES = (
    Column("CONTEXT WINDOW", number=True),
    Column("MAX OUTPUT", number=True),
    Column("USD/M IN", number=True),
    Column("USD/M OUT", number=True),
)


@app.command("list")
@click.option("--all", "everything", is_flag=True, help="Every model that is known, served or not; for platform.admin.")
@json_option
@with_core
def list_(core: Core, *, everything: bool, as_json: bool) -> None:
    """List the models that your key may use, by id, with limits in tokens and prices in USD for a million."""
    if everything:
        _list_catalogue(core, as_json)
        return
    models = core.call(core.models.ListModels, ListModelsRequest()).models
    if as_json:
        output.print_json(quillgate_codec.model_list.to_value(models))
        return
    columns = [Column("MODEL", whole=True), *_LIMITS_AND_PRICES, Column("DESCRIPTION")]
    output.print_table(
        columns, ([model.id, *_limits_and_prices(model), model.description] for model in models.data.items)
    )


@app.command()
@click.argument("model_id", metavar="ID")
@json_option
@with_core
def show(core: Core, *, model_id: str, as_json: bool) -> None:
    """Show a model: limits, what it reads and writes, and what it costs; prices are in USD for a million tokens."""
    model = core.call(core.models.GetModel, GetModelRequest(id=model_id)).model
    if as_json:
        output.print_json(quillgate_codec.model.to_value(model))
        return
    price, *tiers = price_lines(model.pricing) if model.HasField("pricing") else [UNKNOWN]
    output.print_fields(
        {
            "Model": model.id,
            "Owned by": model.owned_by,
            "Description": model.description,
            "Context window": _tokens(model.context_window),
            "Max output": _tokens(model.max_output_tokens),
            "Full context": f"{output.count(model.full_context_messages)} messages"
            if model.HasField("full_context_messages")
            else UNKNOWN,
            "Reads": ", ".join(model.input_modalities),
            "Writes": ", ".join(model.output_modalities),
            "Endpoints": ", ".join(model.endpoints),
            "Price": price,
        }
        | {f"Price, tier {number}": tier for number, tier in enumerate(tiers, 1)}
    )


def _list_catalogue(core: Core, as_json: bool) -> None:
    response = core.call(core.catalogue.ListCatalogueModels, ListCatalogueModelsRequest())
    if as_json:
        output.print_json(output.json_value(response))
        return
    columns = [
        Column("MODEL", whole=True),
        Column("STATE", whole=True),
        *_LIMITS_AND_PRICES,
        Column("SERVED BY"),
        Column("ALIASES"),
    ]
    output.print_table(columns, map(_catalogue_row, response.models))


def _catalogue_row(entry: CatalogueModel) -> list[str]:
    """Providers that are not switched on stand in brackets."""
    providers = (
        upstream.provider if upstream.switched_on else f"({upstream.provider})" for upstream in entry.upstreams
    )
    state = "on" if entry.served else "no provider" if entry.enabled else "off"
    model = entry.model
    return [model.id, state, *_limits_and_prices(model), " ".join(providers), " ".join(entry.aliases)]


def _limits_and_prices(model: Model) -> list[str]:
    prices = (model.pricing.prompt, model.pricing.completion) if model.HasField("pricing") else ("", "")
    return [_tokens(model.context_window), _tokens(model.max_output_tokens), *map(per_million, prices)]


def _tokens(limit: int) -> str:
    """A model without a limit in the catalogue has an unset one; none is 0."""
    return output.count(limit) if limit else UNKNOWN


for _command in (*model_switches.COMMANDS, model_sync.sync, model_route.explain):
    app.add_command(_command)
