"""The operator's file of secrets: `NAME=value` lines that stand in for variables which the environment lacks.

    # a comment
    OPENROUTER_API_KEY=sk-or-…
    export MISTRAL_API_KEY="…"     # `export` and quotes may stand, so that a shell can read the file as well

Nothing is expanded in a value. No problem that is told repeats one.
"""

import os
import re
import stat
from collections.abc import Set
from pathlib import Path

from quillgate_core.catalogue_file import ConfigError

MAX_BYTES = 1024 * 1024
_VARIABLE = "QUILLGATE_SECRETS_FILE"
_LINE = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)")
_QUOTED = re.compile(r"""(["'])(.*)\1\s*(?:#.*)?""")
_COMMENT = re.compile(r"(?:^|\s)#.*")
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def read_secrets(path: Path | None, names: Set[str]) -> dict[str, str]:
    """Returns the values of those variables that the file has; raises ConfigError with every problem.

    A file that others may read is refused, unless root owns it: that is how containers are given secrets. Names that
    are not among `names` are somebody else's and passed over, but for QUILLGATE_…, which belong into the environment.
    """
    if path is None:
        return {}
    found: dict[str, str] = {}
    problems: list[str] = []
    for number, line in enumerate(read_private_text(path, _VARIABLE).splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            problems.append(f"{path}: line {number} is not NAME=value")
        elif match[1].startswith("QUILLGATE_"):
            problems.append(f"{path}: {match[1]} is no provider's variable; set it in the environment")
        elif match[1] in names:
            found[match[1]] = _value(match[2])
    if problems:
        raise ConfigError(problems)
    return found


def read_private_text(path: Path, variable: str) -> str:
    """Returns what is in a file that the variable names, asking for its rights first; raises ConfigError."""
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if status.st_uid != 0 and status.st_mode & _OTHERS:
                raise ConfigError([f"{variable}: others may read {path}; take their rights away: chmod 600"])
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ConfigError([f"{variable}: {path} is larger than {MAX_BYTES} bytes"])
        return data.decode()
    except OSError as error:
        raise ConfigError([f"{variable}: cannot read {path}: {error.strerror}"]) from None
    except UnicodeDecodeError:
        raise ConfigError([f"{variable}: {path} is not UTF-8"]) from None


def _value(text: str) -> str:
    quoted = _QUOTED.fullmatch(text)
    return quoted[2] if quoted else _COMMENT.sub("", text).strip()
