"""`quillgate client-config`: prints or writes what makes a client work with this server, models and limits included.

What is printed on standard output is the file and nothing else; what a person does besides goes to standard error.
A configuration names the variable that holds the key. This file must never put a key, its own or another, into one.
"""

import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import click

from quillgate.v1.model_service_pb2 import ListModelsRequest, Model
from quillgate_cli import output
from quillgate_cli.client_examples import EXAMPLES
from quillgate_cli.client_setup import Client, ClientModel, ConfigFile, Service, Setup
from quillgate_cli.client_tools import TOOLS
from quillgate_cli.connection import Core, with_core
from quillgate_cli.failure import ExitCode, Failure, WrongUsage
from quillgate_cli.table import Column

DEFAULT_BASE_URL = "http://127.0.0.1:8080/api/openai/v1"
_CLIENTS = {client.name: client for client in (*TOOLS, *EXAMPLES)}
_CHAT = "chat.completions"
_DIAGNOSTIC_OWNER = "quillgate"
_USABLE_ID = re.compile(r"[!-~]+")
_DEFAULT_FAMILIES = (
    re.compile(r"google/gemini-[0-9.]+-flash"),
    re.compile(r"openai/gpt-[0-9.]+-mini"),
    re.compile(r"anthropic/claude-haiku-[0-9.]+"),
)
"""What suits most when nobody chose, best first: of a family the newest model is taken."""

_URL = re.compile(r"https?://[!-~]+")


def _list_clients(context: click.Context, parameter: click.Parameter, asked: bool) -> None:
    """Lists and ends before anything else is looked at: it needs no server."""
    if asked and not context.resilient_parsing:
        output.print_table(
            [Column("CLIENT", whole=True), Column("WHAT IT IS"), Column("FILES BELONG IN", whole=True)],
            [[client.name, client.about, client.folder] for client in _CLIENTS.values()],
        )
        context.exit()


@click.command("client-config")
@click.argument("client_name", metavar="CLIENT", type=click.Choice(list(_CLIENTS)))
@click.option(
    "--base-url",
    default=DEFAULT_BASE_URL,
    show_default=True,
    envvar="QUILLGATE_BASE_URL",
    show_envvar=True,
    help="Where clients reach this server.",
)
@click.option("--model", "model_id", metavar="ID", help="The model to use by default. Default: a fast, common one.")
@click.option(
    "--only", "patterns", multiple=True, metavar="GLOB", help="Only models like 'openai/*'; may be given again."
)
@click.option(
    "--write",
    "path",
    metavar="[PATH]",
    is_flag=False,
    flag_value="",
    help="Write the file, or the files into a folder; without PATH where the client looks. Give it last.",
)
@click.option("--force", is_flag=True, help="Overwrite files that exist.")
@click.option("--list", is_flag=True, is_eager=True, expose_value=False, callback=_list_clients, help="List CLIENTs.")
@with_core
def client_config(
    core: Core,
    *,
    client_name: str,
    base_url: str,
    model_id: str | None,
    patterns: tuple[str, ...],
    path: str | None,
    force: bool,
) -> None:
    """Set up a client, such as opencode, aider, llm or codex, with the models that your key may use.

    The configuration is printed, or written with --write. It names the variable with the key, never the key.
    """
    client = _CLIENTS[client_name]
    if force and path is None:
        raise WrongUsage("--force needs --write")
    address = _checked_url(base_url)
    models = core.call(core.models.ListModels, ListModelsRequest()).models.data.items
    setup = client.template(Service(address, _usable(models, model_id, patterns)))
    if path is None:
        _print_files(setup.files)
    else:
        _write_files(_targets(setup, _folder(client, os.environ), path), force=force)
    _tell(setup.steps)


def _checked_url(text: str) -> str:
    """Returns the base URL without a slash at its end, which clients would double."""
    if _URL.fullmatch(text) is None or "@" in text:
        raise WrongUsage("--base-url must be an http:// or https:// URL without a user or password")
    return text.rstrip("/")


def _usable(models: Iterable[Model], model_id: str | None, patterns: Sequence[str]) -> list[ClientModel]:
    """Returns the models that chat, the default one first; a model that says nothing of its endpoints chats."""
    chatting = [
        model
        for model in models
        if (_CHAT in model.endpoints or not model.endpoints) and _USABLE_ID.fullmatch(model.id) is not None
    ]
    if model_id is not None and model_id not in {model.id for model in chatting}:
        raise Failure(
            "your key may use no such chat model", ExitCode.NOT_FOUND, hint="`quillgate models` lists those it may"
        )
    wanted = [model for model in chatting if model.id == model_id or _is_wanted(model.id, patterns)]
    if not wanted:
        raise Failure("your key may use no such chat model", ExitCode.NOT_FOUND, hint="`quillgate models` lists them")
    default = model_id or _default(wanted)
    ordered = sorted(wanted, key=lambda model: (model.id != default, model.owned_by == _DIAGNOSTIC_OWNER))
    return [ClientModel(model.id, model.context_window, model.max_output_tokens) for model in ordered]


def _is_wanted(model_id: str, patterns: Sequence[str]) -> bool:
    return not patterns or any(fnmatchcase(model_id, pattern) for pattern in patterns)


def _default(models: Sequence[Model]) -> str | None:
    """Returns the newest model of the first family that is there; None: the first real model will do."""
    for family in _DEFAULT_FAMILIES:
        found = [model for model in models if family.fullmatch(model.id)]
        if found:
            return max(found, key=lambda model: (model.created, model.id)).id
    return None


def _print_files(files: Iterable[ConfigFile]) -> None:
    """Prints a lone file as it is, to be redirected; several each under its name."""
    texts = list(files)
    for file in texts:
        if len(texts) > 1:
            output.print_line(f"# {file.name}")
        output.write(file.text)


def _folder(client: Client, environ: Mapping[str, str]) -> Path:
    """Returns where the client looks for its files, moved as its own variable says."""
    moved = environ.get(client.folder_variable, "") if client.folder_variable else ""
    if not moved and client.name == "llm":
        moved = click.get_app_dir("io.datasette.llm")  # llm asks the same, so that it is right on every system
    return Path(moved or client.folder).expanduser()


def _targets(setup: Setup, folder: Path, path: str) -> dict[Path, str]:
    """Returns what to write where; several files go into a folder, one to a path or into a folder that exists."""
    chosen = Path(path).expanduser() if path else folder
    if path and len(setup.files) == 1 and not chosen.is_dir():
        return {chosen: setup.files[0].text}
    return {chosen / file.name: file.text for file in setup.files}


def _write_files(targets: Mapping[Path, str], *, force: bool) -> None:
    """Writes all files or, when one is in the way, none."""
    present = [str(target) for target in targets if target.exists()]
    if present and not force:
        raise Failure(f"{', '.join(present)} exists", ExitCode.FAILED, hint="--force overwrites; or leave out --write")
    for target, text in targets.items():
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("w" if force else "x", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise Failure(f"cannot write {target}: {error.strerror}", ExitCode.FAILED) from None
        print(output.clean(f"wrote {target}"), file=sys.stderr)


def _tell(steps: Iterable[str]) -> None:
    for step in steps:
        print(output.clean(f"then: {step}"), file=sys.stderr)
