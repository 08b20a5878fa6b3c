"""`quillgate keys`: KeyService for people. A secret is printed where it was asked for, once, and nowhere else."""

from datetime import UTC, datetime

import click
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from quillgate.v1.key_service_pb2 import (
    CreateKeyRequest,
    CreateKeyResponse,
    GetKeyRequest,
    Key,
    ListKeysRequest,
    ListKeysResponse,
    RevokeKeyRequest,
    RotateKeyRequest,
    RotateKeyResponse,
    UpdateKeyRequest,
)
from quillgate_cli import output
from quillgate_cli.argument import json_option, key_id_argument, workspace_option
from quillgate_cli.connection import Core, with_core
from quillgate_cli.durations import parse_duration, parse_expiry
from quillgate_cli.failure import WrongUsage
from quillgate_cli.key_limits import limit_options, limit_paths, limits_message, limits_text, no_limit_option
from quillgate_cli.pages import PAGE_SIZE, all_pages
from quillgate_cli.table import Column

app = click.Group("keys", help="The secrets that clients present, and what each may do.", no_args_is_help=False)

_SCOPES = "What it may do: inference, usage.read, keys.manage, workspace.admin or platform.admin; repeatable."
_expires_option = click.option(
    "--expires", metavar="WHEN", help="When it stops working: 30d, 12h or 2027-01-31T00:00:00Z."
)
_secret_only_option = click.option(
    "--secret-only", is_flag=True, help="Print the secret and nothing else, for scripts."
)


@app.command()
@click.option("--name", required=True, help="What people call it.")
@workspace_option
@click.option("--scope", "scopes", multiple=True, help=f"{_SCOPES} Default: inference and usage.read.")
@click.option("--model", "models", multiple=True, help="A model it may use; repeatable. Default: any.")
@_expires_option
@limit_options
@json_option
@_secret_only_option
@with_core
def create(
    core: Core,
    *,
    name: str,
    workspace: str | None,
    scopes: tuple[str, ...],
    models: tuple[str, ...],
    expires: str | None,
    as_json: bool,
    secret_only: bool,
    **limits: int | None,
) -> None:
    """Make a key and show its secret, this once; a limit that is not given is your own key's."""
    _check_form(as_json, secret_only)
    request = CreateKeyRequest(
        workspace_id=workspace or "",
        name=name,
        scopes=scopes,
        allowed_models=models,
        expire_time=_expire_time(expires),
        limits=limits_message(limits),
    )
    _show_secret(core.call(core.keys.CreateKey, request), as_json, secret_only)


@app.command("list")
@workspace_option
@click.option("--include-revoked", is_flag=True, help="List revoked keys too.")
@json_option
@with_core
def list_(core: Core, *, workspace: str | None, include_revoked: bool, as_json: bool) -> None:
    """List a workspace's keys, oldest first."""

    def list_page(page_token: str) -> ListKeysResponse:
        request = ListKeysRequest(
            workspace_id=workspace or "", page_size=PAGE_SIZE, page_token=page_token, include_revoked=include_revoked
        )
        return core.call(core.keys.ListKeys, request)

    keys = [key for page in all_pages(list_page) for key in page.keys]
    if as_json:
        output.print_json(output.json_value(ListKeysResponse(keys=keys)))
        return
    titles = ["NAME", "SECRET", "SCOPES", "MODELS", "EXPIRES", "LAST USED"] + ["REVOKED"] * include_revoked
    output.print_table([Column("KEY", whole=True), *map(Column, titles)], (_row(key, include_revoked) for key in keys))


@app.command()
@key_id_argument
@json_option
@with_core
def show(core: Core, *, key_id: str, as_json: bool) -> None:
    """Show a key, never its secret."""
    _show(core.call(core.keys.GetKey, GetKeyRequest(key_id=key_id)).key, as_json)


@app.command()
@key_id_argument
@click.option("--name", help="What people call it.")
@click.option("--scope", "scopes", multiple=True, help=f"{_SCOPES} Replaces the list.")
@click.option("--model", "models", multiple=True, help="Replaces the models it may use; repeatable.")
@click.option("--any-model", is_flag=True, help="It may use every model.")
@_expires_option
@click.option("--never-expires", is_flag=True, help="It works until it is revoked.")
@limit_options
@no_limit_option
@json_option
@with_core
def update(
    core: Core,
    *,
    key_id: str,
    name: str | None,
    scopes: tuple[str, ...],
    models: tuple[str, ...],
    any_model: bool,
    expires: str | None,
    never_expires: bool,
    no_limits: tuple[str, ...],
    as_json: bool,
    **limits: int | None,
) -> None:
    """Change a key, from the next request on."""
    if models and any_model:
        raise WrongUsage("--model and --any-model exclude each other")
    if expires is not None and never_expires:
        raise WrongUsage("--expires and --never-expires exclude each other")
    changes = {
        "name": name is not None,
        "scopes": bool(scopes),
        "allowed_models": bool(models) or any_model,
        "expire_time": expires is not None or never_expires,
    }
    paths = [field for field, changed in changes.items() if changed] + limit_paths(limits, no_limits)
    if not paths:
        raise WrongUsage(
            "nothing to change: give --name, --scope, --model, --any-model, --expires, --never-expires, a limit or "
            "--no-limit"
        )
    request = UpdateKeyRequest(
        key_id=key_id,
        name=name or "",
        scopes=scopes,
        allowed_models=models,
        expire_time=_expire_time(expires),
        update_mask=FieldMask(paths=paths),
        limits=limits_message(limits),
    )
    _show(core.call(core.keys.UpdateKey, request).key, as_json)


@app.command()
@key_id_argument
@click.option("--overlap", metavar="DURATION", help="How long the old secret still works: 12h; 0. Default: 24h.")
@json_option
@_secret_only_option
@with_core
def rotate(core: Core, *, key_id: str, overlap: str | None, as_json: bool, secret_only: bool) -> None:
    """Give a key a new secret and show it, this once."""
    _check_form(as_json, secret_only)
    request = RotateKeyRequest(key_id=key_id)
    if overlap is not None:
        request.overlap.CopyFrom(_duration(overlap))
    _show_secret(core.call(core.keys.RotateKey, request), as_json, secret_only)


@app.command()
@key_id_argument
@json_option
@with_core
def revoke(core: Core, *, key_id: str, as_json: bool) -> None:
    """End a key for good."""
    _show(core.call(core.keys.RevokeKey, RevokeKeyRequest(key_id=key_id)).key, as_json)


def _check_form(as_json: bool, secret_only: bool) -> None:
    if as_json and secret_only:
        raise WrongUsage("--json and --secret-only exclude each other")


def _duration(text: str) -> Duration:
    duration = Duration()
    duration.FromTimedelta(parse_duration(text))
    return duration


def _expire_time(text: str | None) -> Timestamp | None:
    if text is None:
        return None
    timestamp = Timestamp()
    timestamp.FromDatetime(parse_expiry(text, now=datetime.now(UTC)))
    return timestamp


def _show_secret(response: CreateKeyResponse | RotateKeyResponse, as_json: bool, secret_only: bool) -> None:
    """The secret comes first: whatever happens to the rest of the output, it cannot be asked for again."""
    if as_json:
        output.print_json(output.json_value(response))
        return
    output.print_line(response.secret)
    if secret_only:
        return
    output.print_line()
    output.print_line("This is the secret. It is not shown again: keep it now.")
    output.print_line()
    _show(response.key, as_json=False)


def _show(key: Key, as_json: bool) -> None:
    if as_json:
        output.print_json({"key": output.json_value(key)})
        return
    output.print_fields(
        {
            "Key": key.key_id,
            "Workspace": key.workspace_id,
            "Name": key.name,
            "Secret": _secret_end(key),
            "Scopes": _scopes(key),
            "Models": _models(key),
            "Limits": limits_text(key.limits),
            "Created": output.moment(key, "create_time"),
            "Expires": output.moment(key, "expire_time"),
            "Last used": output.moment(key, "last_used_time"),
            "Revoked": output.moment(key, "revoke_time", absent="no"),
        }
    )


def _row(key: Key, include_revoked: bool) -> list[str]:
    times = [output.moment(key, "expire_time"), output.moment(key, "last_used_time")]
    if include_revoked:
        times.append(output.moment(key, "revoke_time", absent="no"))
    return [key.key_id, key.name, _secret_end(key), _scopes(key), _models(key), *times]


def _secret_end(key: Key) -> str:
    return f"…{key.last4}"


def _scopes(key: Key) -> str:
    return ", ".join(key.scopes)


def _models(key: Key) -> str:
    return ", ".join(key.allowed_models) or "any"
