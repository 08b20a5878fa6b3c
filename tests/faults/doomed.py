"""Starts cores that die at a failpoint, out of one program that has imported everything already."""

import asyncio
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

DEATH_S = 10.0


@dataclass(frozen=True)
class DoomedCore:
    """A core that dies when it comes by a failpoint, or has died at its start; then its address is empty."""

    pid: int
    address: str
    reached_file: Path

    def signal(self, kind: int) -> None:
        """Send a signal: SIGUSR1 to renew the lease, SIGUSR2 to recover."""
        os.kill(self.pid, kind)

    async def died_at(self) -> str:
        """Wait for its death and return the failpoint that killed it, empty for another death."""
        async with asyncio.timeout(DEATH_S):
            while psutil.pid_exists(self.pid):
                await asyncio.sleep(0.01)
        return self.reached_file.read_text()


class Doomsayer:
    """The program, `doomed_core.py`; `stop` ends it, and each core has died by then or does now."""

    def __init__(self) -> None:
        program = Path(__file__).with_name("doomed_core.py")
        self._process = subprocess.Popen(
            [sys.executable, str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._pids: list[int] = []

    def start(self, name: str, hit: int, *, database_url: str, directory: Path) -> DoomedCore:
        """Start a core that dies when it comes by `name` for the `hit`-th time; returns when it serves. Blocking.

        Its data are in `doomed` below the directory, whose catalogue and pepper it uses.
        """
        data_dir = directory / "doomed"
        data_dir.mkdir()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        asked = {
            "name": name,
            "hit": hit,
            "database_url": database_url,
            "data_dir": str(data_dir),
            "pepper_file": str(directory / "pepper"),
            "catalogue": str(directory / "catalogue.toml"),
        }
        print(json.dumps(asked), file=self._process.stdin, flush=True)
        pid, address = self._process.stdout.readline().split()
        self._pids.append(int(pid))
        return DoomedCore(int(pid), "" if address == "died" else address, data_dir / "reached")

    def stop(self) -> None:
        """End it."""
        for pid in self._pids:
            if psutil.pid_exists(pid):
                psutil.Process(pid).kill()
        self._process.communicate()
