"""The pepper: 32 secret bytes outside the database, without which the digests of the keys' secrets are worthless.

Losing it makes every key invalid, so back it up with the database; replicas on one database need the same one.
"""

import secrets
from pathlib import Path

from quillgate_core.storage.secret_file import create_secret_file
from quillgate_core.storage.startup import StartupError

PEPPER_BYTES = 32


def load_or_create_pepper(path: Path) -> bytes:
    """Return the pepper in the file, which is made (mode 0600) if there is none; processes may race for it.

    Raises StartupError if the file is not exactly 32 bytes.
    """
    if not path.exists():
        create_secret_file(path, secrets.token_bytes(PEPPER_BYTES))
    pepper = path.read_bytes()
    if len(pepper) != PEPPER_BYTES:
        raise StartupError(f"{path} must hold exactly {PEPPER_BYTES} bytes but holds {len(pepper)}; restore a backup.")
    return pepper
