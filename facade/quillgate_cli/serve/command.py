"""The commands `quillgate serve`, `serve core` and `serve facade`: what to run, in one process or in several."""

from collections.abc import Callable

import click

from quillgate_cli.serve import several, single
from quillgate_cli.serve.guard import guarded
from quillgate_cli.serve.new_keys import NewKeys

MOST_WORKERS = 64
_DEFAULT_CORE = "127.0.0.1:8788"

_new_key_option = click.option(
    "--new-key", is_flag=True, help="Also make and print a developer key that works for 30 days."
)
_new_admin_key_option = click.option(
    "--new-admin-key", is_flag=True, help="Also make and print a key with all scopes, if you lost the first start's."
)
_workers_option = click.option(
    "--workers",
    type=click.IntRange(1, MOST_WORKERS),
    default=1,
    show_default=True,
    envvar="QUILLGATE_WORKERS",
    show_envvar=True,
    help="Processes that share the ports, one a CPU core; each has all of its limits to itself.",
)


@click.group("serve", invoke_without_command=True)
@_new_key_option
@_new_admin_key_option
@_workers_option
@click.pass_context
def app(context: click.Context, *, new_key: bool, new_admin_key: bool, workers: int) -> None:
    """Run facade and core together; `serve core` and `serve facade` run them apart."""
    if context.invoked_subcommand is None:
        new_keys = NewKeys(developer=new_key, admin=new_admin_key)
        _run(lambda: single.all_in_one(new_keys) if workers == 1 else several.all_in_one(new_keys, workers))


@app.command("core")
@_new_key_option
@_new_admin_key_option
@_workers_option
def core_alone(*, new_key: bool, new_admin_key: bool, workers: int) -> None:
    """Run core alone: gRPC on QUILLGATE_GRPC_ADDRESS."""
    new_keys = NewKeys(developer=new_key, admin=new_admin_key)
    _run(lambda: single.core_alone(new_keys) if workers == 1 else several.core_alone(new_keys, workers))


@app.command("facade")
@click.option(
    "--core",
    "addresses",
    multiple=True,
    envvar="QUILLGATE_CORE_ADDRESS",
    show_envvar=True,
    help="Address of core: host:port or unix:/path; repeatable.",
)
@_workers_option
def facade_alone(*, addresses: tuple[str, ...], workers: int) -> None:
    """Run the facade alone: REST on QUILLGATE_FACADE_HOST and QUILLGATE_FACADE_PORT."""
    targets = addresses or (_DEFAULT_CORE,)
    target = targets[0] if len(targets) == 1 else f"ipv4:{','.join(targets)}"
    _run(lambda: single.facade_alone(target) if workers == 1 else several.facade_alone(target, workers))


def _run(run: Callable[[], int]) -> None:
    code = guarded(run)
    if code:
        raise click.exceptions.Exit(code)
