"""The arguments and options that several commands share, with their checks; what one has stays with it."""

from typing import Annotated

import typer

from quillgate_cli.failure import WrongUsage

MAX_INT64 = 2**63 - 1
_SECRET_PREFIX = "qg_"  # noqa: S105  # the public prefix of secrets, to recognise one where an id belongs


def checked_id(value: str | None) -> str | None:
    """Refuses an empty id, which would silently mean "my own", and a secret in the place of an id, unrepeated."""
    if value is None:
        return None
    if not value.strip():
        raise WrongUsage("an id is empty: leave it out or fill it in")
    if value.startswith(_SECRET_PREFIX):
        raise WrongUsage(
            "that is a secret, not an id; it is now in this machine's process list and your shell's history"
        )
    return value


KeyId = Annotated[str, typer.Argument(metavar="KEY_ID", callback=checked_id, help="Id of the key, key_….")]
WorkspaceId = Annotated[
    str | None,
    typer.Argument(metavar="[WORKSPACE_ID]", callback=checked_id, help="Id of the workspace. Default: your key's own."),
]
WorkspaceOption = Annotated[
    str | None,
    typer.Option("--workspace", metavar="WORKSPACE_ID", callback=checked_id, help="Default: your key's own."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document, for scripts.")]
