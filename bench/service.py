"""Measures the whole service against a fast mock provider: rates, latencies, CPU per request, memory.

    python bench/service.py [--seconds 4] [--apart]

The service runs on core 0; the mock provider, the load generator and PostgreSQL on core 1. CPU is that of the service's
process tree without PostgreSQL, divided by the requests (or chunks) served: on a shared machine that is the figure to
trust. Needs gcc and Linux. Results are printed and kept as JSON in bench/results.
"""

import argparse
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

BENCH = Path(__file__).resolve().parent
BIN = BENCH / "bin"
SERVICE_CORE = "0"
LOAD_CORE = "1"
MODEL = "mock/model"

CATALOGUE = """
[providers.mock]
base_url = "http://127.0.0.1:{port}/v1"

[[models]]
id = "mock/model"
context_window = 128000
max_output_tokens = 8192
upstreams = [{{ provider = "mock", model = "mock" }}]
"""


@dataclass(frozen=True)
class Service:
    """A running service under test."""

    url: str
    key: str
    processes: tuple[psutil.Process, ...]

    def cpu_s(self) -> float:
        """CPU seconds that the service has used, its PostgreSQL left out."""
        return sum(times.user + times.system for times in (process.cpu_times() for process in self.processes))

    def resident_mb(self) -> float:
        """Resident megabytes of the service without PostgreSQL."""
        return sum(process.memory_info().rss for process in self.processes) / 1e6


def build() -> None:
    """Compiles the mock provider and the load generator."""
    BIN.mkdir(exist_ok=True)
    for name in ("mock", "lg"):
        source, program = BENCH / f"{name}.c", BIN / name
        if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
            subprocess.run(["gcc", "-O2", "-o", program, source, "-lm"], check=True)


@contextmanager
def running(command: list[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
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
def service(directory: Path, catalogue_text: str, *, apart: bool) -> Iterator[Service]:
    """Starts `quillgate serve`, all in one or core and facade apart; gRPC is on the Unix socket `core.sock`."""
    catalogue = directory / "models.toml"
    catalogue.write_text(catalogue_text)
    environ = os.environ | {
        "QUILLGATE_CONFIG": str(catalogue),
        "QUILLGATE_DATA_DIR": str(directory / "data"),
        "QUILLGATE_GRPC_ADDRESS": f"unix:{directory}/core.sock",
        "QUILLGATE_FACADE_PORT": "0",
    }
    quillgate = [
        "taskset", "-c", SERVICE_CORE, str(Path(sys.executable).parent / "quillgate"), "serve"
    ]  # fmt: skip
    options: dict[str, Any] = {"env": environ, "stdout": subprocess.PIPE, "cwd": directory}
    first = [*quillgate, "core", "--new-key"] if apart else [*quillgate, "--new-key"]
    with running(first, **options) as main:
        printed = read_until(main, r"Your key +(\S+)")
        key = printed[1]
        if not apart:
            yield measured(printed.string, key, main)
            return
        facade = [*quillgate, "facade", "--core", f"unix:{directory}/core.sock"]
        with running(facade, **options) as second:
            yield measured(read_until(second, r"core +unix").string, key, main, second)


def measured(printed: str, key: str, *processes: subprocess.Popen[str]) -> Service:
    """Finds the service's URL in what it printed, and moves its PostgreSQL to the load's core."""
    url = re.search(r"http://\S+", printed)
    assert url is not None
    for process in processes:
        for child in psutil.Process(process.pid).children(recursive=True):
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


def load(target: Service, *arguments: str, seconds: float) -> dict[str, Any]:
    """Runs the load generator and returns its figures with the service's CPU."""
    command = ["taskset", "-c", LOAD_CORE, str(BIN / "lg"), "--url", f"{target.url}/chat/completions"]
    command += ["--key", target.key, "--model", MODEL, "--time", str(seconds), *arguments]
    before = target.cpu_s()
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    figures: dict[str, Any] = json.loads(output)
    figures["cpu_s"] = target.cpu_s() - before
    return figures


def unary(target: Service, connections: int, seconds: float) -> dict[str, Any]:
    """Measures one-piece answers."""
    got = load(target, "--c", str(connections), seconds=seconds)
    return {
        "work": f"unary, {connections} connections",
        "requests_per_s": round(got["rps"]),
        "cpu_ms_per_request": round(got["cpu_s"] * 1000 / got["ok"], 3),
        "p50_ms": got["lat"]["p50"],
        "p99_ms": got["lat"]["p99"],
        "errors": got["errors"],
    }


def streams(target: Service, connections: int, chunks: int, delay_ms: int, seconds: float) -> dict[str, Any]:
    """Measures streamed answers."""
    shape = ("--stream", "--n", str(chunks), "--d", str(delay_ms), "--c", str(connections))
    got = load(target, *shape, seconds=seconds)
    pace = f"{delay_ms} ms apart" if delay_ms else "at full speed"
    return {
        "work": f"{connections} streams x {chunks} chunks, {pace}",
        "chunks_per_s": round(got["chunks_s"]),
        "cpu_us_per_chunk": round(got["cpu_s"] * 1e6 / (got["ok"] * chunks), 1),
        "first_chunk_p50_ms": got["ttft"]["p50"],
        "lag_p99_ms": got["lag"]["p99"],
        "errors": got["errors"],
    }


def measure(directory: Path, *, apart: bool, seconds: float) -> dict[str, Any]:
    """Measures everything and returns the figures."""
    port = 9_100
    mock = ["taskset", "-c", LOAD_CORE, str(BIN / "mock"), str(port)]
    catalogue = CATALOGUE.format(port=port)
    with running(mock, stdout=subprocess.DEVNULL), service(directory, catalogue, apart=apart) as target:
        load(target, "--c", "16", seconds=1)  # warm up
        work = [unary(target, connections, seconds) for connections in (1, 16, 64, 256)]
        work.append(streams(target, 32, 100, 0, seconds))
        work.append(streams(target, 200, 50, 20, seconds))
        return {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "shape": "apart, unix socket" if apart else "all in one",
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
            "versions": {name: version(name) for name in ("quillgate", "grpcio", "aiohttp", "protobuf", "uvloop")},
            "resident_mb": round(target.resident_mb()),
            "postgres_mb": round(postgres_mb(target)),
            "work": work,
        }


def postgres_mb(target: Service) -> float:
    """Proportional memory of the embedded PostgreSQL: pages that its processes share are counted once."""
    children = [child for process in target.processes for child in process.children(recursive=True)]
    return sum(child.memory_full_info().pss for child in children) / 1e6


def main() -> None:
    """Measures, prints and keeps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0, help="duration of each line, in seconds")
    parser.add_argument("--apart", action="store_true", help="core and facade in two processes over a Unix socket")
    arguments = parser.parse_args()
    build()
    with tempfile.TemporaryDirectory(prefix="quillgate-bench-") as name:
        figures = measure(Path(name), apart=arguments.apart, seconds=arguments.seconds)
    results = BENCH / "results"
    results.mkdir(exist_ok=True)
    (results / f"service-{figures['time'].replace(':', '')}.json").write_text(json.dumps(figures, indent=2))
    print(f"{figures['shape']}; {figures['machine']}; resident {figures['resident_mb']} MB"
          f" + PostgreSQL {figures['postgres_mb']} MB")  # fmt: skip
    for row in figures["work"]:
        print("  " + "  ".join(f"{name} {value}" for name, value in row.items() if name != "work"), "|", row["work"])


if __name__ == "__main__":
    main()
