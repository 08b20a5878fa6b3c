"""A person's desk for one test: a home and a project of its own, an environment, and clients that are run there.

Nothing outside this machine is reachable from it: every proxy variable leads to a port where nobody listens.
"""

import asyncio
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from service import RunningService

CORE_KEY, CLIENT_KEY = "QUILLGATE_KEY", "QUILLGATE_API_KEY"
_NOWHERE = "http://127.0.0.1:9"
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
_HERE_ONLY = {"no_proxy": "127.0.0.1,localhost", "NO_PROXY": "127.0.0.1,localhost"}
_GIT = {"name": "Somebody", "email": "somebody@example.com"}


@dataclass(frozen=True)
class Finished:
    """How a client ended, and all that it printed."""

    code: int
    out: str
    err: str


@dataclass
class Desk:
    """Runs clients in `project`, with the service's developer key where the configuration expects it."""

    service: RunningService
    home: Path
    project: Path
    environ: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for folder in (self.home, self.project):
            folder.mkdir(parents=True, exist_ok=True)
        self.environ = {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "HOME": str(self.home),
            "PYTHONUNBUFFERED": "1",
            CORE_KEY: self.service.developer_key,
            CLIENT_KEY: self.service.developer_key,
            "QUILLGATE_CORE_ADDRESS": self.service.grpc_address,
            "QUILLGATE_BASE_URL": self.service.base_url,
            **dict.fromkeys(_PROXIES, _NOWHERE),
            **_HERE_ONLY,
            **{f"GIT_{role}_{name.upper()}": text for role in ("AUTHOR", "COMMITTER") for name, text in _GIT.items()},
            **self.environ,
        }

    async def run(
        self, *command: str | Path, timeout_s: float = 60, stdin: bytes | None = None, **environ: str
    ) -> Finished:
        """Runs a client to its end; raises TimeoutError, and leaves none of its processes behind in any case."""
        process = await asyncio.create_subprocess_exec(
            *map(str, command),
            cwd=self.project,
            env=self.environ | environ,
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(timeout_s):
                out, err = await process.communicate(stdin)
        finally:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            await process.wait()
        return Finished(process.returncode or 0, out.decode(), err.decode())

    async def configure(self, client: str, *options: str) -> None:
        """Writes the client's configuration where it looks, with our own command, as a person would."""
        command = [sys.executable, "-m", "quillgate_cli", "client-config", client, *options, "--write"]
        finished = await self.run(*command)
        assert finished.code == 0, finished.err

    def make_repository(self, **files: str) -> None:
        """Makes the project a git repository with one commit of the files, given as name_extension=text."""
        for name, text in files.items():
            (self.project / ".".join(name.rsplit("_", 1))).write_text(text)
        for arguments in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message", "Start"]):
            subprocess.run(["git", *arguments], cwd=self.project, env=self.environ, check=True, timeout=30)
