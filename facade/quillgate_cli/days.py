"""The options that select days of a workspace, the same for every command that shows what was used."""

from datetime import datetime

import click

_DAY = click.DateTime(["%Y-%m-%d"])

from_option = click.option(
    "--from", "first", metavar="DAY", type=_DAY, help="YYYY-MM-DD, UTC. Default: 30 days before --to."
)
to_option = click.option("--to", "last", metavar="DAY", type=_DAY, help="YYYY-MM-DD, UTC. Default: today.")


def day_text(moment: datetime | None) -> str:
    """Returns a day as the contract has it, empty for none."""
    return "" if moment is None else moment.date().isoformat()
