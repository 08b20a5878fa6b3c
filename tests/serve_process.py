"""`quillgate serve` as a real process with its own data directory, as a person starts it."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

START_TIMEOUT_S = 60


@dataclass
class ServeProcess:
    """A started service and what it printed."""

    process: "subprocess.Popen[str]"
    printed: str

    def find(self, label: str) -> str:
        """Returns the word after a label of what was printed, empty if it is not there."""
        match = re.search(rf"^{label} +(\S+)", self.printed, re.MULTILINE)
        return match[1] if match else ""

    @property
    def base_url(self) -> str:
        """The base URL for clients."""
        return re.sub(r"^.*?(http://\S+).*$", r"\1", self.printed, flags=re.DOTALL)

    def family(self) -> list[psutil.Process]:
        """The process and all that it started."""
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]

    def stop(self, kind: signal.Signals = signal.SIGINT, *, timeout_s: float) -> int:
        """Sends the signal and waits; raises TimeoutExpired when the process is still there after `timeout_s`."""
        self.process.send_signal(kind)
        return self.process.wait(timeout_s)


def environment(data_dir: Path, **settings: str) -> dict[str, str]:
    """The environment of a process: free ports, its own data, nothing of the outside world's providers."""
    kept = {name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")}
    own = {
        "QUILLGATE_DATA_DIR": str(data_dir),
        "QUILLGATE_GRPC_ADDRESS": "127.0.0.1:0",
        "QUILLGATE_FACADE_PORT": "0",
        "PYTHONUNBUFFERED": "1",
    }
    return kept | own | settings


@contextmanager
def serving(
    arguments: list[str],
    environ: dict[str, str],
    *,
    ready: str,
    program: Sequence[str] = (sys.executable, "-m", "quillgate_cli"),
) -> Iterator[ServeProcess]:
    """Runs `quillgate serve …` until the end of the block; it is ready when it has printed `ready`."""
    command = [*program, "serve", *arguments]
    with subprocess.Popen(
        command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as process:
        try:
            yield ServeProcess(process, _read(process, ready))
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                try:
                    process.wait(15)
                except subprocess.TimeoutExpired:
                    process.kill()


def _read(process: "subprocess.Popen[str]", ready: str) -> str:
    assert process.stdout is not None
    printed = ""
    for line in process.stdout:
        printed += line
        if re.search(ready, printed, re.MULTILINE):
            return printed
    raise AssertionError(f"the service ended before it was ready:\n{printed}")
