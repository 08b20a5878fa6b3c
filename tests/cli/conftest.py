"""The CLI, run in this process or in one of its own, against a fake core on loopback."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from fakes.fake_admin_core import ADMIN_SECRET, FakeAdminCore

from quillgate_cli.main import main


@dataclass(frozen=True)
class Outcome:
    """How a command ended and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output as the one JSON document that it must be."""
        return msgspec.json.decode(self.out)

    def column(self, title: str) -> list[str]:
        """The words under a title of a table, by position; for columns without spaces in their cells."""
        head, _, *rows = self.out.split("\n\n")[0].splitlines()
        start = head.index(title)
        return [row[start:].split("  ")[0].strip() for row in rows]


class Cli:
    """Runs commands in this process, with the admin's key in the environment."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str) -> Outcome:
        code = main(arguments)
        out, err = self._capsys.readouterr()
        return Outcome(code, out, err)


class CliProcess:
    """Starts the CLI as a process of its own, as a shell would."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment

    def start(self, *arguments: str, **options: Any) -> "subprocess.Popen[bytes]":
        """Starts a command with pipes for its three streams."""
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        command = [sys.executable, "-m", "quillgate_cli", *arguments]
        return subprocess.Popen(command, env=self.environment, **{**pipes, **options})

    def __call__(self, *arguments: str, stdin: str = "") -> Outcome:
        process = self.start(*arguments)
        out, err = process.communicate(stdin.encode(), timeout=60)
        return Outcome(process.returncode, out.decode(), err.decode())


@pytest.fixture
def core() -> Iterator[FakeAdminCore]:
    """A core with one workspace and no keys, on a free port."""
    with FakeAdminCore() as fake:
        yield fake


@pytest.fixture
def cli(core: FakeAdminCore, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """The CLI in this process, set to the fake core and the admin's key."""
    monkeypatch.setenv("QUILLGATE_CORE_ADDRESS", core.address)
    monkeypatch.setenv("QUILLGATE_KEY", ADMIN_SECRET)
    monkeypatch.delenv("QUILLGATE_TLS", raising=False)
    return Cli(capsys)


@pytest.fixture
def cli_process(core: FakeAdminCore) -> CliProcess:
    """The CLI as a process, set to the fake core and the admin's key."""
    keep = {name: value for name, value in os.environ.items() if not name.startswith(("QUILLGATE_", "PYTEST"))}
    return CliProcess({**keep, "QUILLGATE_CORE_ADDRESS": core.address, "QUILLGATE_KEY": ADMIN_SECRET})
