"""`quillgate credentials`: ProviderCredentialService for people. A provider's key goes in, and is never shown."""

import re
import time

import click

from quillgate.v1.provider_credential_service_pb2 import (
    DeleteProviderCredentialRequest,
    ListProviderCredentialsRequest,
    ProviderCredential,
    RewrapProviderCredentialsRequest,
    RewrapProviderCredentialsResponse,
    SetProviderCredentialRequest,
    TestProviderCredentialRequest,
)
from quillgate_cli import output
from quillgate_cli.argument import json_option, workspace_option
from quillgate_cli.connection import Core, with_core
from quillgate_cli.failure import ExitCode, Failure, WrongUsage
from quillgate_cli.provider_secret import read_provider_secret
from quillgate_cli.table import Column

TEST_DEADLINE_S = 20.0
"""The provider itself may take 10 s."""

REWRAP_PAUSE_S = 0.5
MAX_IDLE_REWRAPS = 5
"""Calls in a row that may rewrap nothing while somebody else holds what is left."""

_PROVIDER = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_ON_ARGV = "it is now in this machine's process list and your shell's history"

app = click.Group("credentials", help="The keys that workspaces have with providers.", no_args_is_help=False)


def _checked_provider(context: click.Context, parameter: click.Parameter, value: str) -> str:
    """Refuses what can be no provider's name, unrepeated: it may be a key in the wrong place."""
    if _PROVIDER.fullmatch(value) is None:
        raise WrongUsage(f"that is no provider's name; if it was a key, {_ON_ARGV}")
    return value


def _no_more(context: click.Context, parameter: click.Parameter, value: tuple[str, ...]) -> None:
    """Takes surplus arguments from click, whose complaint would repeat them."""
    if value:
        raise WrongUsage(f"a key is never an argument: give it on standard input or with --secret-file; {_ON_ARGV}")


provider_argument = click.argument("provider", callback=_checked_provider)


@app.command("set")
@provider_argument
@click.argument("surplus", nargs=-1, callback=_no_more, expose_value=False, metavar="")
@workspace_option
@click.option("--base-url", metavar="URL", help="Where the provider is reached. Default: where the gateway does.")
@click.option("--allow-fallback", is_flag=True, help="The gateway's own key may serve what this one cannot.")
@click.option("--secret-file", metavar="PATH", help="File that holds the key. Default: standard input, or a prompt.")
@json_option
@with_core
def set_(
    core: Core,
    *,
    provider: str,
    workspace: str | None,
    base_url: str | None,
    allow_fallback: bool,
    secret_file: str | None,
    as_json: bool,
) -> None:
    """Keep the workspace's own key with a provider, in place of the one before."""
    if secret_file in (None, "-") and click.get_current_context().params.get("key_file") == "-":
        raise WrongUsage("standard input cannot hold both keys: give one of them in a file")
    request = SetProviderCredentialRequest(
        workspace_id=workspace or "",
        provider=provider,
        secret=read_provider_secret(secret_file),
        base_url=base_url or "",
        allow_fallback=allow_fallback,
    )
    _show(core.call(core.credentials.SetProviderCredential, request).credential, as_json)


@app.command("list")
@workspace_option
@json_option
@with_core
def list_(core: Core, *, workspace: str | None, as_json: bool) -> None:
    """List a workspace's provider keys, by provider, never the keys themselves."""
    request = ListProviderCredentialsRequest(workspace_id=workspace or "")
    response = core.call(core.credentials.ListProviderCredentials, request)
    if as_json:
        output.print_json(output.json_value(response))
        return
    titles = ["KEY", "BASE URL", "FALLBACK", "MASTER KEY", "CREATED"]
    columns = [Column("PROVIDER", whole=True), Column("CREDENTIAL", whole=True), *map(Column, titles)]
    output.print_table(columns, map(_row, response.credentials))


@app.command()
@provider_argument
@workspace_option
@json_option
@with_core
def test(core: Core, *, provider: str, workspace: str | None, as_json: bool) -> None:
    """Ask a provider, at no cost, whether it takes the key; ends with 1 if it does not."""
    request = TestProviderCredentialRequest(workspace_id=workspace or "", provider=provider)
    response = core.call(core.credentials.TestProviderCredential, request, deadline_s=TEST_DEADLINE_S)
    if as_json:
        output.print_json(output.json_value(response))
    else:
        output.print_line(f"{response.message} ({output.count(response.latency_ms)} ms)")
    if not response.ok:
        raise click.exceptions.Exit(ExitCode.FAILED)


@app.command()
@provider_argument
@workspace_option
@json_option
@with_core
def delete(core: Core, *, provider: str, workspace: str | None, as_json: bool) -> None:
    """Forget the key with a provider; the gateway's own serves from then on."""
    request = DeleteProviderCredentialRequest(workspace_id=workspace or "", provider=provider)
    response = core.call(core.credentials.DeleteProviderCredential, request)
    if as_json:
        output.print_json(output.json_value(response))
    else:
        output.print_line(f"The key with {provider} is gone.")


@app.command()
@json_option
@with_core
def rewrap(core: Core, *, as_json: bool) -> None:
    """Seal all provider keys with the current master key, so that an old one can go; can be stopped and repeated."""
    rewrapped, last = _rewrap_all(core)
    if as_json:
        output.print_json(output.json_value(last) | {"rewrapped": rewrapped})
    else:
        numbers = {"Sealed anew": rewrapped, "Remaining": last.remaining, "Unreadable": last.unreadable}
        fields = {"Master key": last.master_key_id} | {name: output.count(number) for name, number in numbers.items()}
        output.print_fields(fields)
    if last.remaining:
        raise Failure("an old master key is still needed", ExitCode.FAILED, hint="core's log names what is unreadable")


def _rewrap_all(core: Core) -> tuple[int, RewrapProviderCredentialsResponse]:
    """Returns how many were rewrapped in all, and the last answer: nothing remains, or nothing more can be done."""
    rewrapped, idle = 0, 0
    while True:
        last = core.call(core.credentials.RewrapProviderCredentials, RewrapProviderCredentialsRequest())
        rewrapped += last.rewrapped
        idle = 0 if last.rewrapped else idle + 1
        if last.remaining <= last.unreadable or idle >= MAX_IDLE_REWRAPS:
            return rewrapped, last
        if idle:
            time.sleep(REWRAP_PAUSE_S)


def _show(credential: ProviderCredential, as_json: bool) -> None:
    if as_json:
        output.print_json({"credential": output.json_value(credential)})
        return
    output.print_fields(
        {
            "Credential": credential.credential_id,
            "Workspace": credential.workspace_id,
            "Provider": credential.provider,
            "Key": _secret_end(credential),
            "Base URL": _base_url(credential),
            "Fallback": _fallback(credential),
            "Master key": credential.master_key_id,
            "Created": output.moment(credential, "create_time"),
        }
    )


def _row(credential: ProviderCredential) -> list[str]:
    return [
        credential.provider,
        credential.credential_id,
        _secret_end(credential),
        _base_url(credential),
        _fallback(credential),
        credential.master_key_id,
        output.moment(credential, "create_time"),
    ]


def _secret_end(credential: ProviderCredential) -> str:
    return f"…{credential.last4}"


def _base_url(credential: ProviderCredential) -> str:
    return credential.base_url or "the gateway's"


def _fallback(credential: ProviderCredential) -> str:
    return "to the gateway's own key" if credential.allow_fallback else "no"
