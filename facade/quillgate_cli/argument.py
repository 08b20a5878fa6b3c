"""The arguments and options that several commands share, with their checks; what one has stays with it."""

import click

from quillgate_cli.failure import WrongUsage

MAX_INT64 = 2**63 - 1
_SECRET_PREFIX = "qg_"  # noqa: S105  # the public prefix of secrets, to recognise one where an id belongs


def checked_id(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
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


AMOUNT = click.IntRange(0, MAX_INT64)

key_id_argument = click.argument("key_id", callback=checked_id)
workspace_id_argument = click.argument("workspace_id", required=False, callback=checked_id)
workspace_option = click.option(
    "--workspace", metavar="WORKSPACE_ID", callback=checked_id, help="Default: your key's own."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document, for scripts.")
