"""Where a provider's key comes from: a file, standard input, or a person who types it unseen; never the command line.

Nothing here may print or repeat what it read.
"""

import re
import sys
from pathlib import Path

import click

from quillgate_cli.failure import WrongUsage

MAX_SECRET_CHARACTERS = 4_096
_MAX_READ_CHARACTERS = 2 * MAX_SECRET_CHARACTERS
_VISIBLE_ASCII = re.compile(r"[!-~]+")


def read_provider_secret(secret_file: str | None) -> str:
    """Returns the key from the file, or else ('-' says so) from standard input, which on a terminal is asked for.

    White space around it is left out. Raises WrongUsage for what can be no key.
    """
    secret = (_read_stdin() if secret_file in (None, "-") else _read_file(str(secret_file))).strip()
    if not secret:
        raise WrongUsage("no key: give it on standard input or with --secret-file")
    if len(secret) > MAX_SECRET_CHARACTERS or _VISIBLE_ASCII.fullmatch(secret) is None:
        raise WrongUsage(
            f"a provider's key is 1 to {MAX_SECRET_CHARACTERS} visible ASCII characters; this is something else"
        )
    return secret


def _read_stdin() -> str:
    if sys.stdin is None:
        return ""
    if sys.stdin.isatty():
        return str(click.prompt("The provider's key", hide_input=True, err=True))
    try:
        return sys.stdin.read(_MAX_READ_CHARACTERS)
    except ValueError:
        raise WrongUsage("standard input holds no text") from None


def _read_file(secret_file: str) -> str:
    try:
        with Path(secret_file).open(encoding="utf-8") as file:
            return file.read(_MAX_READ_CHARACTERS)
    except OSError as error:
        raise WrongUsage(f"cannot read the file {secret_file}: {error.strerror}") from None
    except ValueError:
        raise WrongUsage(f"the file {secret_file} holds no text") from None
