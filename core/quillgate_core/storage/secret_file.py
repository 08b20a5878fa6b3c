"""Files with secrets that the first start makes: private, whole and durable, whoever else starts at the same time."""

import os
import secrets
from pathlib import Path


def create_secret_file(path: Path, content: bytes) -> None:
    """Writes a draft (mode 0600) durably, then gives it its name only if nobody was first."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        try:
            os.link(draft, path)
        except FileExistsError:
            pass
    finally:
        draft.unlink()
