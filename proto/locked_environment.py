"""Makes a virtual environment that holds exactly what a lock file lists, or finds the one made before.

    python proto/locked_environment.py proto/generate.lock .venv-proto

Prints the path of its interpreter. The environment is made anew when the lock file, or the Python that runs this,
changes. Needs nothing but Python; must not touch the environment that it runs in.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

STAMP = "locked-environment.sha256"


def locked_environment(lock: Path, folder: Path) -> Path:
    """Returns the interpreter of the environment; raises CalledProcessError when pip cannot install the lock."""
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    stamp = folder / STAMP
    fingerprint = hashlib.sha256(lock.read_bytes() + sys.version.encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == fingerprint:
        return python
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True)
    install = ["-m", "pip", "install", "--quiet", "--no-input", "--require-hashes", "--only-binary=:all:", "--no-deps"]
    subprocess.run([python, *install, "--requirement", lock], check=True, stdout=sys.stderr)  # noqa: S603
    stamp.write_text(fingerprint)  # last, so that a half-made environment is never taken for a whole one
    return python


if __name__ == "__main__":
    sys.stdout.write(f"{locked_environment(Path(sys.argv[1]), Path(sys.argv[2]).absolute())}\n")
