"""Installs the clients that people use, in pinned versions, once: PyPI's into `.venv-tools-…`, npm's into `.tools`.

Both folders are ignored by git and found again by the next run. Must not touch the environment that runs the tests.
"""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
_INSTALL_TIMEOUT_S = 600
_STAMP = "installed.sha256"


def python_tool(name: str) -> Path:
    """Returns the executable of a tool from PyPI, whose hash-pinned versions are in `<name>.lock` beside this file."""
    command = [
        sys.executable,
        ROOT / "proto/locked_environment.py",
        HERE / f"{name}.lock",
        ROOT / f".venv-tools-{name}",
    ]
    made = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=_INSTALL_TIMEOUT_S)
    return Path(made.stdout.strip()).parent / name


def npm_packages() -> Path:
    """Returns a folder whose `node_modules` holds what npm/package.json pins; skips the test where npm is missing."""
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        pytest.skip("npm and node are not installed")
    folder = ROOT / ".tools" / "npm"
    folder.parent.mkdir(exist_ok=True)
    with FileLock(folder.with_suffix(".lock"), _INSTALL_TIMEOUT_S):  # another process may test another client
        _install(npm, node, folder)
    return folder


def _install(npm: str, node: str, folder: Path) -> None:
    manifest = (HERE / "npm" / "package.json").read_bytes()
    fingerprint = hashlib.sha256(manifest).hexdigest()
    stamp = folder / _STAMP
    if stamp.exists() and stamp.read_text() == fingerprint:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "package.json").write_bytes(manifest)
    install = [npm, "install", "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]
    subprocess.run(install, cwd=folder, check=True, timeout=_INSTALL_TIMEOUT_S)
    # The one script that is wanted: it puts the binary that fits this machine into its place.
    postinstall = folder / "node_modules/opencode-ai/postinstall.mjs"
    subprocess.run([node, postinstall], cwd=postinstall.parent, check=True, timeout=_INSTALL_TIMEOUT_S)
    stamp.write_text(fingerprint)  # last, so that a half-made folder is never taken for a whole one
