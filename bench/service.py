"""Runs the service under test, the mock provider behind it, and whatever else is measured, each on its core.

The service runs on core 0; the mock provider, the load generator and PostgreSQL on core 1: those are not what is
measured, and share what is left. Needs gcc and Linux. The other programs in this folder import it.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

BENCH = Path(__file__).resolve().parent
BIN = BENCH / "bin"
SERVICE_CORE = "0"
LOAD_CORE = "1"
QUILLGATE = Path(sys.executable).parent / "quillgate"
MODEL = "mock/model"
START_S = 120
POSTGRES = "postgres"

CATALOGUE = """
[providers.mock]
base_url = "{url}"

[[models]]
id = "mock/model"
context_window = 128000
max_output_tokens = 8192
upstreams = [{{ provider = "mock", model = "mock" }}]
"""


@dataclass(frozen=True)
class Service:
    """A running service, of ours or of others: everything below its processes belongs to it."""

    url: str
    key: str
    processes: tuple[psutil.Process, ...]
    model: str = MODEL
    headers: tuple[str, ...] = ()
    """What requests need besides the key, as `Name: value`."""
    admin_key: str = ""
    """A key of ours that may make others."""
    core: str = ""
    """Where our gRPC listens, for the CLI."""

    def tree(self) -> list[psutil.Process]:
        """The processes that serve: its own and their children, PostgreSQL's left out."""
        return self._processes(postgres=False)

    def postgres(self) -> list[psutil.Process]:
        """The processes of its PostgreSQL."""
        return self._processes(postgres=True)

    def cpu_s(self) -> float:
        """CPU seconds that the service has used, its PostgreSQL left out."""
        return sum(self._each(lambda process: sum(process.cpu_times()[:2]), postgres=False))

    def postgres_cpu_s(self) -> float:
        """CPU seconds of its PostgreSQL, with those of connections that have ended."""
        return sum(self._each(lambda process: sum(process.cpu_times()[:4]), postgres=True))

    def resident_mb(self) -> float:
        """Resident megabytes of the service without PostgreSQL."""
        return sum(self._each(lambda process: process.memory_info().rss, postgres=False)) / 1e6

    def postgres_mb(self) -> float:
        """Proportional memory of its PostgreSQL: pages that its processes share are counted once."""
        return sum(self._each(lambda process: process.memory_full_info().pss, postgres=True)) / 1e6

    def _processes(self, *, postgres: bool) -> list[psutil.Process]:
        found = {child.pid: child for process in self.processes for child in process.children(recursive=True)}
        found |= {process.pid: process for process in self.processes}
        return [process for process in found.values() if (_name(process) == POSTGRES) is postgres]

    def _each(self, figure: Callable[[psutil.Process], float], *, postgres: bool) -> Iterator[float]:
        """Looks at each process that does not end just then."""
        for process in self._processes(postgres=postgres):
            with suppress(psutil.NoSuchProcess):
                yield figure(process)


def _name(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.NoSuchProcess:
        return POSTGRES  # those come and go with connections


def free_port() -> int:
    """Returns a port of loopback that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def build() -> None:
    """Compiles the mock provider and the load generator."""
    BIN.mkdir(exist_ok=True)
    for name in ("mock", "lg"):
        source, program = BENCH / f"{name}.c", BIN / name
        if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
            subprocess.run(["gcc", "-O2", "-o", program, source, "-lm"], check=True)


@contextmanager
def running(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Runs a program for the time of a block."""
    with subprocess.Popen(command, text=True, **options) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


@contextmanager
def mock_provider() -> Iterator[Service]:
    """Runs the mock provider on the load's core and a free port, as something that can be measured itself."""
    port = free_port()
    command = ["taskset", "-c", LOAD_CORE, str(BIN / "mock"), str(port)]
    with running(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        url = f"http://127.0.0.1:{port}/v1"
        await_answer(f"{url}/models", process)
        yield Service(url, "", (psutil.Process(process.pid),))


@contextmanager
def service(
    directory: Path,
    catalogue_text: str,
    *,
    apart: bool,
    options: Sequence[str] = (),
    core: str = SERVICE_CORE,
    **environ: str,
) -> Iterator[Service]:
    """Starts `quillgate serve`, all in one or core and facade apart; gRPC is on the Unix socket `core.sock`."""
    kwargs = start_options(directory, catalogue_text) | {"stdout": subprocess.PIPE}
    kwargs["env"] |= environ
    quillgate = ["taskset", "-c", core, str(QUILLGATE), "serve"]
    first = [*quillgate, "core", "--new-key"] if apart else [*quillgate, *options, "--new-key"]
    with running(first, **kwargs) as main:
        printed = read_until(main, r"Your key +(\S+)")
        key = printed[1]
        if not apart:
            admin = re.search(r"Admin key +(\S+)", printed.string)
            core = f"unix://{directory}/core.sock"
            yield replace(measured(printed.string, key, main), admin_key=admin[1] if admin else "", core=core)
            return
        facade = [*quillgate, "facade", "--core", f"unix:{directory}/core.sock"]
        with running(facade, **kwargs) as second:
            yield measured(read_until(second, r"core +unix").string, key, main, second)


def with_key(target: Service, *limits: str) -> Service:
    """Makes a key with limits, given as options of the CLI, and returns the service as its holder sees it."""
    command = [str(QUILLGATE), "keys", "create", "--name", "bench", "--secret-only", *limits, "--address", target.core]
    environ = os.environ | {"QUILLGATE_KEY": target.admin_key}
    made = subprocess.run(command, env=environ, text=True, stdout=subprocess.PIPE, check=True)
    return replace(target, key=made.stdout.strip())


def start_options(directory: Path, catalogue_text: str) -> dict[str, Any]:
    """Writes the catalogue and returns in which folder and environment a process of the service starts."""
    catalogue = directory / "models.toml"
    catalogue.write_text(catalogue_text)
    settings = {
        "QUILLGATE_CONFIG": str(catalogue),
        "QUILLGATE_DATA_DIR": str(directory / "data"),
        "QUILLGATE_DATABASE_URL": "",
        "QUILLGATE_GRPC_ADDRESS": f"unix:{directory}/core.sock",
        "QUILLGATE_FACADE_PORT": "0",
        "QUILLGATE_LOG_LEVEL": "ERROR",
    }
    return {"env": os.environ | settings, "cwd": directory}


def measured(printed: str, key: str, *processes: subprocess.Popen[str]) -> Service:
    """Finds the service's URL in what it printed, and moves its PostgreSQL to the load's core."""
    url = re.search(r"http://\S+", printed)
    assert url is not None
    for process in processes:
        for child in psutil.Process(process.pid).children(recursive=True):
            if _name(child) == POSTGRES:
                child.cpu_affinity([int(LOAD_CORE)])
    return Service(url[0], key, tuple(psutil.Process(process.pid) for process in processes))


def read_until(process: subprocess.Popen[str], pattern: str) -> re.Match[str]:
    """Reads a program's output up to a pattern."""
    assert process.stdout is not None
    printed = ""
    for line in process.stdout:
        printed += line
        if match := re.search(pattern, printed):
            return match
    raise SystemExit(f"the service ended early: {printed}")


def await_answer(url: str, process: subprocess.Popen[str]) -> None:
    """Waits until a server answers at all."""
    end = time.monotonic() + START_S
    while time.monotonic() < end and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.05)
    raise SystemExit(f"nothing answers at {url}")


def ask(target: Service) -> dict[str, Any]:
    """Has one short request answered."""
    body = {"model": target.model, "messages": [{"role": "user", "content": "Hello!"}]}
    headers = {"Authorization": f"Bearer {target.key}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{target.url}/chat/completions", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=START_S) as answer:
        found: dict[str, Any] = json.loads(answer.read())
        return found
