"""A key's limits on the command line: the options that set them, the words that tell them. Must not call anybody."""

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any, TypeVar

import click

from quillgate.v1.key_service_pb2 import KeyLimits
from quillgate_cli import output
from quillgate_cli.argument import AMOUNT
from quillgate_cli.failure import WrongUsage

_CommandT = TypeVar("_CommandT", bound=Callable[..., Any])

_HELP = {
    "daily_messages": "Messages a UTC day",
    "monthly_messages": "Messages a UTC month",
    "requests_per_minute": "Requests in any 60 seconds",
    "tokens_per_minute": "LLM tokens of the requests of any 60 seconds",
    "concurrent_requests": "Requests that run at the same time",
}
_WORDS = {
    "daily_messages": "messages a day",
    "monthly_messages": "messages a month",
    "requests_per_minute": "requests a minute",
    "tokens_per_minute": "tokens a minute",
    "concurrent_requests": "requests at once",
}


def limit_options(command: _CommandT) -> _CommandT:
    """Adds an option for each limit; the command gets them as keywords of the limits' names, None where not given."""
    options = [
        click.option(_option(name), type=AMOUNT, metavar="N", help=f"{text}; 0 admits none.")
        for name, text in _HELP.items()
    ]
    return reduce(lambda decorated, option: option(decorated), reversed(options), command)


no_limit_option = click.option(
    "--no-limit",
    "no_limits",
    multiple=True,
    type=click.Choice([name.replace("_", "-") for name in _HELP]),
    help="A limit to take away; repeatable.",
)


def limits_message(limits: Mapping[str, int | None]) -> KeyLimits | None:
    """Returns the limits that were given as the contract's; None if none was, so that core's defaults apply."""
    given = {name: value for name, value in limits.items() if value is not None}
    return KeyLimits(**given) if given else None


def limit_paths(limits: Mapping[str, int | None], no_limits: Sequence[str]) -> list[str]:
    """Returns what an update mask must name; raises WrongUsage for a limit that is both given and taken away."""
    removed = {name.replace("-", "_") for name in no_limits}
    for name in removed:
        if limits[name] is not None:
            raise WrongUsage(f"{_option(name)} and --no-limit {name.replace('_', '-')} exclude each other")
    return [f"limits.{name}" for name in _HELP if limits[name] is not None or name in removed]


def limits_text(limits: KeyLimits) -> str:
    """Returns the limits in words, `none` without any."""
    return (
        ", ".join(
            f"{output.count(getattr(limits, name))} {words}"
            for name, words in _WORDS.items()
            if limits.HasField(name)  # type: ignore[arg-type]
        )
        or "none"
    )


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
