"""The options that select days, the same for every command that shows or keeps what was used."""

from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

import click

DAY: Final = click.DateTime(["%Y-%m-%d"])

last_day_option = click.option("--to", "last", metavar="DAY", type=DAY, help="YYYY-MM-DD, UTC. Default: today.")


def first_day_option(default: str = "30 days before --to") -> Callable[[Any], Any]:
    """Returns the option for the first day of a range, whose default is said in words."""
    return click.option("--from", "first", metavar="DAY", type=DAY, help=f"YYYY-MM-DD, UTC. Default: {default}.")


def day_text(moment: datetime | None) -> str:
    """Returns a day as the contract has it, empty for none."""
    return "" if moment is None else moment.date().isoformat()
