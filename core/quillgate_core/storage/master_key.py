"""The master keys: what the provider keys of workspaces are sealed with, kept outside the database.

A file holds one key a line, an environment variable may have commas between them; each is the base64 of 32 bytes or 64
hexadecimal digits. The first seals, the others still open what they sealed. Losing them makes every provider key
unreadable, so back them up apart from the database; replicas on one database need the same ones.

To change the key without a gap, on all replicas at each step: add the new one as the last line and restart; move it to
the first and restart; `quillgate credentials rewrap`; remove the old line. With one replica, or where a moment without
the newest provider keys does no harm, the new key can be put first at once.
"""

import base64
import binascii
import os
import re
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Final

from quillgate_core.sealing import KEY_BYTES, MasterKey, MasterKeys
from quillgate_core.secret import Secret
from quillgate_core.storage.secret_file import create_secret_file
from quillgate_core.storage.startup import StartupError

MAX_KEYS: Final = 16
_MAX_FILE_BYTES: Final = 16 * 1024
_HEX: Final = re.compile(r"[0-9A-Fa-f]{64}")
_FORM: Final = "the base64 of 32 bytes or 64 hexadecimal digits"
VARIABLE: Final = "QUILLGATE_MASTER_KEY"


def load_or_create_master_keys(path: Path, *, is_needed: Callable[[], bool]) -> MasterKeys:
    """Returns the keys in the file, which is made (mode 0600) with a new one if there is none; processes may race.

    Where `is_needed` says that something was sealed before, a file that is not there is lost, and not made anew.
    Raises StartupError for that and for a file that holds anything else than keys.
    """
    if not path.exists():
        if is_needed():
            raise StartupError(
                f"The database holds provider keys of workspaces but their master key {path} is not there: restore it "
                "from a backup. To give those keys up, write a new one into it: openssl rand -base64 32"
            )
        create_secret_file(path, base64.b64encode(secrets.token_bytes(KEY_BYTES)) + b"\n")
    return _parse(_read(path).splitlines(), str(path))


def master_keys_of(text: Secret) -> MasterKeys:
    """Returns the keys of the environment variable; raises StartupError if it holds anything else."""
    return _parse(re.split(r"[,\n]", text.reveal()), VARIABLE)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise StartupError(f"The master key {path} cannot be read: {os.strerror(error.errno or 0)}.") from None
    if len(data) > _MAX_FILE_BYTES or not data.isascii():
        raise StartupError(f"{path} must hold one master key a line: {_FORM}.")
    return data.decode("ascii")


def _parse(lines: list[str], source: str) -> MasterKeys:
    """Reads the keys; a problem is told by its place, never by what stands there."""
    given = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    if not given:
        raise StartupError(f"{source} holds no master key; it must hold one a line: {_FORM}.")
    if len(given) > MAX_KEYS:
        raise StartupError(f"{source} holds {len(given)} master keys; at most {MAX_KEYS} are read.")
    keys: dict[str, MasterKey] = {}
    for number, line in given:
        key = MasterKey(_key_bytes(line, f"{source}, line {number}"))
        if key.key_id in keys:
            raise StartupError(f"{source}, line {number}: this master key stands there already.")
        keys[key.key_id] = key
    return MasterKeys(list(keys.values()))


def _key_bytes(line: str, place: str) -> bytes:
    if _HEX.fullmatch(line):
        return bytes.fromhex(line)
    try:
        key = base64.b64decode(line, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise StartupError(f"{place}: a master key must be {_FORM}.")
    return key
