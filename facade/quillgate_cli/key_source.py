"""Where the caller's key comes from: the environment, a file or standard input, never the command line.

Every user of a machine can read every process's arguments. Nothing here may print or repeat what it read.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

from quillgate_cli.failure import KEY_HINT, ExitCode, Failure, WrongUsage

KEY_VARIABLE = "QUILLGATE_KEY"
_MAX_KEY_LENGTH = 1024
_VISIBLE_ASCII = re.compile(r"[!-~]+")


def read_key(key_file: str | None, environ: Mapping[str, str], stdin: TextIO | None) -> str:
    """Returns the key from `key_file` ('-' is `stdin`), or else from the environment.

    Raises WrongUsage when the file cannot be read, and Failure when there is no key or it could be none.
    """
    text = environ.get(KEY_VARIABLE, "") if key_file is None else _read(key_file, stdin)
    key = text.strip()
    if not key:
        raise Failure("no key", ExitCode.REFUSED, hint=KEY_HINT)
    if len(key) > _MAX_KEY_LENGTH or _VISIBLE_ASCII.fullmatch(key) is None:
        raise Failure("the key holds what no key can hold", ExitCode.REFUSED, hint=KEY_HINT)
    return key


def _read(key_file: str, stdin: TextIO | None) -> str:
    """Reads a little more than the longest key, so that a wrong file costs no memory."""
    try:
        if key_file == "-":
            return "" if stdin is None else stdin.read(2 * _MAX_KEY_LENGTH)
        with Path(key_file).open(encoding="utf-8") as file:
            return file.read(2 * _MAX_KEY_LENGTH)
    except OSError as error:
        raise WrongUsage(f"cannot read the key file {key_file}: {error.strerror}") from None
    except ValueError:
        raise WrongUsage(f"the key file {key_file} holds no text") from None
