"""The pepper: 32 secret bytes outside the database, without which the digests of the keys' secrets are worthless.

Losing it makes every key invalid, so back it up with the database; replicas on one database need the same one.
"""

import os
import secrets
from pathlib import Path

from quillgate_core.storage.startup import StartupError

PEPPER_BYTES = 32


def load_or_create_pepper(path: Path) -> bytes:
    """Return the pepper in the file, which is made (mode 0600) if there is none; processes may race for it.

    Raises StartupError if the file is not exactly 32 bytes.
    """
    if not path.exists():
        _create(path)
    pepper = path.read_bytes()
    if len(pepper) != PEPPER_BYTES:
        raise StartupError(f"{path} must hold exactly {PEPPER_BYTES} bytes but holds {len(pepper)}; restore a backup.")
    return pepper


def _create(path: Path) -> None:
    """Write a draft whole and durably, then give it its name only if nobody was first."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(PEPPER_BYTES))
            file.flush()
            os.fsync(descriptor)
        try:
            os.link(draft, path)
        except FileExistsError:
            pass
    finally:
        draft.unlink()
