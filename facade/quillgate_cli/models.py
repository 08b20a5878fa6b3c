"""`quillgate models`: ModelService for people. `--json` prints OpenAI's own objects, as `GET /models` does."""

import click

import quillgate_codec
from quillgate.v1.model_service_pb2 import GetModelRequest, ListModelsRequest, Model
from quillgate_cli import output
from quillgate_cli.argument import json_option
from quillgate_cli.connection import Core, with_core
from quillgate_cli.table import Column


class ListByDefault(click.Group):
    """Makes `quillgate models --json` mean `quillgate models list --json`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Puts the command in where none is named; completion sees the arguments as they are."""
        named = bool(args) and (args[0] in self.commands or args[0] in ctx.help_option_names)
        return super().parse_args(ctx, args if named or ctx.resilient_parsing else ["list", *args])


app = ListByDefault(
    "models",
    help="The models that your key may use; lists them when no command is given.",
    short_help="The models that your key may use.",
)


@app.command("list")
@json_option
@with_core
def list_(core: Core, *, as_json: bool) -> None:
    """List the models that your key may use, by id."""
    models = core.call(core.models.ListModels, ListModelsRequest()).models
    if as_json:
        output.print_json(quillgate_codec.model_list.to_value(models))
        return
    columns = [
        Column("MODEL", whole=True),
        Column("OWNED BY"),
        Column("CONTEXT WINDOW", number=True),
        Column("MAX OUTPUT", number=True),
        Column("DESCRIPTION"),
    ]
    output.print_table(columns, map(_row, models.data.items))


@app.command()
@click.argument("model_id", metavar="ID")
@json_option
@with_core
def show(core: Core, *, model_id: str, as_json: bool) -> None:
    """Show a model."""
    model = core.call(core.models.GetModel, GetModelRequest(id=model_id)).model
    if as_json:
        output.print_json(quillgate_codec.model.to_value(model))
        return
    output.print_fields(
        {
            "Model": model.id,
            "Owned by": model.owned_by,
            "Description": model.description,
            "Context window": _tokens(model.context_window),
            "Max output": _tokens(model.max_output_tokens),
            "Reads": ", ".join(model.input_modalities),
            "Writes": ", ".join(model.output_modalities),
            "Endpoints": ", ".join(model.endpoints),
        }
    )


def _row(model: Model) -> list[str]:
    limits = [_tokens(model.context_window), _tokens(model.max_output_tokens)]
    return [model.id, model.owned_by, *limits, model.description]


def _tokens(limit: int) -> str:
    """A model without a limit in the catalogue has an unset one; none is 0."""
    return output.count(limit) if limit else "unknown"
