"""Runs the load generator against a service and says what it and the service used meanwhile."""

import json
import subprocess
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Self

from service import BIN, LOAD_CORE, Service

LoadFigures = dict[str, Any]
"""What `lg` prints, and `cpu_s` and `postgres_cpu_s`: what the service and its database used."""


class UnansweredError(Exception):
    """Not one request was answered, so there is nothing to measure."""


class Load(AbstractContextManager["Load"]):
    """A load generator that runs while something else is looked at; `figures` waits for its end.

    Refusals, hang-ups and failures are counted in the figures, and are no error here.
    """

    def __init__(self, target: Service, *arguments: str, seconds: float, core: str = LOAD_CORE) -> None:
        self._target = target
        self._command = ["taskset", "-c", core, str(BIN / "lg"), "--url", f"{target.url}/chat/completions"]
        self._command += ["--key", target.key] if target.key else []
        for header in target.headers:
            self._command += ["--header", header]
        self._command += ["--model", target.model, "--time", str(seconds), *arguments]
        self._before = (0.0, 0.0)

    def __enter__(self) -> Self:
        self._before = (self._target.cpu_s(), self._target.postgres_cpu_s())
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def is_running(self) -> bool:
        """Tells whether it still sends."""
        return self._process.poll() is None

    def figures(self) -> LoadFigures:
        """Returns the figures when it has ended; raises ValueError if it did not print any."""
        found: LoadFigures = json.loads(self._process.communicate()[0])
        cpu_s, postgres_cpu_s = self._before
        found["cpu_s"] = self._target.cpu_s() - cpu_s
        found["postgres_cpu_s"] = self._target.postgres_cpu_s() - postgres_cpu_s
        return found


def load(target: Service, *arguments: str, seconds: float, core: str = LOAD_CORE) -> LoadFigures:
    """Runs the load generator and returns its figures with the service's CPU; raises UnansweredError if all failed."""
    with Load(target, *arguments, seconds=seconds, core=core) as running:
        found = running.figures()
    if not found["ok"] and not found["hung"]:
        raise UnansweredError(f"{target.url} answered nothing: {found}")
    return found


def stream_arguments(connections: int, chunks: int, delay_ms: float, *, ramp_s: float = 0) -> tuple[str, ...]:
    """Returns the arguments of a closed loop of streams, whose first requests are spread over `ramp_s`."""
    shape = ("--stream", "--n", str(chunks), "--d", str(delay_ms), "--c", str(connections))
    return (*shape, "--ramp", str(ramp_s)) if ramp_s else shape
