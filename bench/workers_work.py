"""Two workers on two cores beside one worker on one core.

Where there are four cores or more, the load has cores of its own and the rates speak for themselves. On two cores the
load generator, the mock provider and PostgreSQL must share the workers' cores, so that two workers never have two whole
cores: their rate is then put in proportion to the CPU that they got. A worker that waits, for a lock or for the other
one's commit, gets no CPU for it, and so would look better than it is: the share of time in which the cores idle is told
beside it, and taken off.
"""

import os
import subprocess

import psutil
from row import Row
from service import LOAD_CORE, QUILLGATE, SERVICE_CORE, Service, free_port
from session import Session

CONNECTIONS = 128
"""Of one worker, and of two: as many in all, and as many for each."""
OWN_CORES = 4
"""With so many the load need not share."""


def can_run() -> bool:
    """Tells whether this Quillgate has workers."""
    told = subprocess.run([str(QUILLGATE), "serve", "--help"], capture_output=True, text=True, check=True).stdout
    return "--workers" in told


def workers(session: Session) -> list[Row]:
    """Measures both and compares."""
    is_shared = (os.cpu_count() or 1) < OWN_CORES
    cores = f"{SERVICE_CORE},{LOAD_CORE}" if is_shared else "2,3"
    one = _rate(session, 1, SERVICE_CORE, CONNECTIONS)
    rows = [Row("one worker on one core", "requests/s", one["rps"])]
    for connections in (CONNECTIONS, 2 * CONNECTIONS):
        two = _rate(session, 2, cores, connections)
        rows += _compared(one, two, f"two workers on two cores, {connections} connections", is_shared=is_shared)
    return rows


def _compared(one: dict[str, float], two: dict[str, float], work: str, *, is_shared: bool) -> list[Row]:
    note = "load and PostgreSQL share the two cores: requests per CPU second, less idle time" if is_shared else ""
    factor = two["per_cpu_s"] / one["per_cpu_s"] * 2 * two["busy"] if is_shared else two["rps"] / one["rps"]
    return [
        Row(work, "times as many as one", factor, 1.8, at_least=True, note=note),
        Row(work, "requests/s of two", two["rps"]),
        Row(work, "CPU ms per request, one", 1_000 / one["per_cpu_s"]),
        Row(work, "CPU ms per request, two", 1_000 / two["per_cpu_s"]),
        Row(work, "share of the busier worker", two["busier"]),
        Row(work, "cores' idle share with two", 1 - two["busy"]),
    ]


def _rate(session: Session, count: int, cores: str, connections: int) -> dict[str, float]:
    """Returns the rate of so many workers, their requests per CPU second, and how busy the machine's cores were."""
    ports = {"QUILLGATE_FACADE_PORT": str(free_port()), "QUILLGATE_GRPC_ADDRESS": f"127.0.0.1:{free_port()}"}
    with session.quillgate(options=("--workers", str(count)), core=cores, **ports) as target:
        _spread(target)
        before, idle = _cpu_of_each(target), _idle_s()
        found = session.load(f"{count} workers", target, "--c", str(connections))
        used = {pid: cpu_s - before.get(pid, 0.0) for pid, cpu_s in _cpu_of_each(target).items()}
        machine_s = found["wall"] * (os.cpu_count() or 1)
        figures = {
            "rps": found["rps"],
            "per_cpu_s": found["ok"] / found["cpu_s"],
            "busier": max(used.values()) / max(sum(used.values()), 1e-9),
            "busy": 1 - min((_idle_s() - idle) / machine_s, 1.0),
        }
        session.keep(
            f"{count} workers, {connections} connections, CPU", {**figures, "cpu_s_of_each": sorted(used.values())}
        )
        return figures


def _spread(target: Service) -> None:
    """Lets PostgreSQL run wherever there is room: here it is no worker's own core that must be kept free."""
    if (os.cpu_count() or 1) >= OWN_CORES:
        return
    for process in target.postgres():
        process.cpu_affinity(list(range(os.cpu_count() or 1)))


def _cpu_of_each(target: Service) -> dict[int, float]:
    return {process.pid: sum(process.cpu_times()[:2]) for process in target.tree()}


def _idle_s() -> float:
    times = psutil.cpu_times()
    return float(times.idle)
