"""`quillgate models enable`, `disable`, `alias`, `unalias`: CatalogueService for people. Must not decide anything."""

from typing import Final

import click

from quillgate.v1.catalogue_service_pb2 import (
    CatalogueModel,
    DeleteModelAliasRequest,
    SetModelAliasRequest,
    SetModelEnabledRequest,
)
from quillgate_cli import output
from quillgate_cli.argument import json_option
from quillgate_cli.connection import Core, with_core

_id_argument = click.argument("model_id", metavar="ID")


@click.command()
@_id_argument
@json_option
@with_core
def enable(core: Core, *, model_id: str, as_json: bool) -> None:
    """Serve a model again that was switched off."""
    _switch(core, model_id, enabled=True, as_json=as_json)


@click.command()
@_id_argument
@json_option
@with_core
def disable(core: Core, *, model_id: str, as_json: bool) -> None:
    """Serve a model to nobody, from within two seconds on."""
    _switch(core, model_id, enabled=False, as_json=as_json)


@click.command()
@click.argument("name")
@_id_argument
@json_option
@with_core
def alias(core: Core, *, name: str, model_id: str, as_json: bool) -> None:
    """Let a model be asked for by another name too; an alias that exists gets the new model."""
    request = SetModelAliasRequest(alias=name, model_id=model_id)
    _show(core.call(core.catalogue.SetModelAlias, request).model, as_json)


@click.command()
@click.argument("name")
@json_option
@with_core
def unalias(core: Core, *, name: str, as_json: bool) -> None:
    """Forget an alias."""
    core.call(core.catalogue.DeleteModelAlias, DeleteModelAliasRequest(alias=name))
    if as_json:
        output.print_json({"alias": name, "deleted": True})
        return
    output.print_line(f"{name} is no alias any more")


COMMANDS: Final = (enable, disable, alias, unalias)


def _switch(core: Core, model_id: str, *, enabled: bool, as_json: bool) -> None:
    request = SetModelEnabledRequest(id=model_id, enabled=enabled)
    _show(core.call(core.catalogue.SetModelEnabled, request).model, as_json)


def _show(entry: CatalogueModel, as_json: bool) -> None:
    if as_json:
        output.print_json({"model": output.json_value(entry)})
        return
    output.print_fields(
        {
            "Model": entry.model.id,
            "Enabled": "yes" if entry.enabled else "no",
            "Served": "yes" if entry.served else "no",
            "Aliases": ", ".join(entry.aliases) or "none",
        }
    )
