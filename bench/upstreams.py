"""Puts two upstreams under load and lets one die, hang, slow down and refuse in turn: what do clients notice?

    python bench/upstreams.py [--pace 1.0]

Two models are asked at the same time: `ordered` goes to its first upstream unless that is unwell, `equals` to the less
busy and faster of two. It is the first of each that misbehaves, one second into a phase, and is well again in the phase
after it. Requests come at a fixed rate, whole and streamed, so that a slow answer does not lower the load.

    calls       requests to upstreams for each request of a client
    errors      clients that got no answer, nor the beginning of one
    cut         streams that ended after they had begun: they cannot be begun anew

Ends with 1 unless nobody has an error, calls stay at 1.1 or less, breakers were seen to open and to close, and the
median with one upstream dead is at most 1.2 times the normal one. Needs gcc and Linux, as `service.py` does.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from service import BENCH, BIN, LOAD_CORE, Service, build, service

from quillgate.v1.model_service_pb2 import ExplainModelRequest
from quillgate.v1.model_service_pb2_grpc import ModelServiceStub

KINDS = {"ordered": "", "equals": ", priority = 0"}
FIRST_PORT = 9_110
WHOLE_PER_S = 40
STREAMS_PER_S = 15
LATENCY_MS = 20
FAULT_S = 1.0
"""How far into its phase a fault begins, so that requests are under way."""
POLL_S = 0.05
MAX_CALLS = 1.1
MAX_P50 = 1.2

PROVIDER = """
[providers.{name}]
base_url = "http://127.0.0.1:{port}/v1"
first_byte_s = 0.5
"""
MODEL = """
[[models]]
id = "mock/{kind}"
context_window = 128000
max_output_tokens = 8192
upstreams = [
  {{ provider = "{kind}-first", model = "mock"{extra} }},
  {{ provider = "{kind}-second", model = "mock"{extra} }},
]
"""


@dataclass(frozen=True)
class Phase:
    """One stretch of time; `fault` is what befalls the first upstreams, empty for nothing."""

    name: str
    fault: str
    seconds: float


PHASES = (
    Phase("normal", "", 8),
    Phase("killed", "kill", 10),
    Phase("back", "ok", 14),
    Phase("hung", "hang", 10),
    Phase("back", "ok", 14),
    Phase("slowed", "slow", 8),
    Phase("back", "ok", 4),
    Phase("429", "429", 8),
    Phase("back", "ok", 8),
    Phase("500", "500", 10),
    Phase("back", "ok", 16),
)


class Upstream:
    """A mock provider that can be killed and started again."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None
        self._before = 0

    def start(self) -> None:
        """Starts it and waits until it answers."""
        command = ["taskset", "-c", LOAD_CORE, str(BIN / "mock"), str(self._port)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(100):
            try:
                self._get("/health")
                return
            except OSError:
                time.sleep(0.05)
        raise SystemExit("the mock provider does not start")

    def kill(self) -> None:
        """Kills it, noting what it was sent until then."""
        if self._process is not None:
            self._before = self.requests
            self._process.kill()
            self._process.wait()
            self._process = None

    def befall(self, fault: str) -> None:
        """Makes it behave so from now on."""
        if fault == "kill":
            self.kill()
        elif fault and self._process is None:
            self.start()
        elif fault:
            self._get(f"/mode/{fault}")

    @property
    def requests(self) -> int:
        """How many completions it has been asked for since the beginning."""
        return self._before + (json.loads(self._get("/stats"))["completions"] if self._process is not None else 0)

    def _get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}{path}", timeout=5) as answer:
            body: bytes = answer.read()
            return body


@dataclass
class Watch:
    """Looks at the first upstream of each kind all the time, as the service explains its routes."""

    channel: grpc.Channel
    key: str
    states: dict[str, list[tuple[float, str]]] = field(default_factory=lambda: defaultdict(list))
    """The breaker's changes by kind, with their times."""
    failures: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    """The most failures within 10 s, since `failures` was cleared."""
    ended: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Looks until it is ended."""
        stub: Any = ModelServiceStub(self.channel)
        metadata = (("authorization", f"Bearer {self.key}"),)
        while not self.ended.wait(POLL_S):
            for kind in KINDS:
                explained = stub.ExplainModel(ExplainModelRequest(id=f"mock/{kind}"), metadata=metadata)
                (step,) = [step for step in explained.steps if step.provider == f"{kind}-first"]
                self.failures[kind] = max(self.failures[kind], step.recent_failures)
                if not self.states[kind] or self.states[kind][-1][1] != step.breaker:
                    self.states[kind].append((time.monotonic(), step.breaker))

    def since(self, kind: str, start_time: float) -> str:
        """Returns the changes since a time, in seconds from it."""
        changes = [f"{state} {at - start_time:.1f}" for at, state in self.states[kind] if at >= start_time]
        return " ".join(changes) or self.states[kind][-1][1]


@contextmanager
def watching(directory: Path, key: str) -> Iterator[Watch]:
    """Watches for the time of a block."""
    with grpc.insecure_channel(f"unix:{directory}/core.sock") as channel:
        watch = Watch(channel, key)
        thread = threading.Thread(target=watch.run)
        thread.start()
        try:
            yield watch
        finally:
            watch.ended.set()
            thread.join()


@dataclass
class Bench:
    """A running service between load and upstreams."""

    target: Service
    watch: Watch
    pairs: dict[str, tuple[Upstream, Upstream]]

    def run(self, phase: Phase, seconds: float) -> list[dict[str, Any]]:
        """Runs one phase and returns a row for each kind."""
        start_time = time.monotonic()
        before = {kind: self._calls(kind) for kind in KINDS}
        self.watch.failures.clear()
        loads = {kind: [self._load(kind, seconds, stream=stream) for stream in (False, True)] for kind in KINDS}
        time.sleep(FAULT_S if phase.fault not in ("", "ok") else 0)
        for first, _ in self.pairs.values():
            first.befall(phase.fault)
        rows = []
        for kind, (whole, streams) in loads.items():
            got, cut = (json.loads(load.communicate()[0]) for load in (whole, streams))
            calls = self._calls(kind) - before[kind]
            if phase.fault == "kill":
                calls += self.watch.failures[kind]  # nobody else counts connections that were refused
            rows.append(
                {
                    "kind": kind,
                    "phase": phase.name,
                    "requests": got["started"] + cut["started"],
                    "errors": got["errors"] + got["unfinished"] + cut["err_status"] + cut["err_conn"]
                    + cut["unfinished"],
                    "cut": cut["err_content"],
                    "calls": calls,
                    "p50_ms": got["lat"]["p50"],
                    "p99_ms": got["lat"]["p99"],
                    "breaker": self.watch.since(kind, start_time),
                }
            )  # fmt: skip
        return rows

    def _calls(self, kind: str) -> int:
        return sum(upstream.requests for upstream in self.pairs[kind])

    def _load(self, kind: str, seconds: float, *, stream: bool) -> subprocess.Popen[str]:
        command = ["taskset", "-c", LOAD_CORE, str(BIN / "lg"), "--url", f"{self.target.url}/chat/completions"]
        command += ["--key", self.target.key, "--model", f"mock/{kind}", "--time", str(seconds), "--l", str(LATENCY_MS)]
        command += ["--stream", "--n", "20", "--d", "5"] if stream else []
        command += ["--rate", str(STREAMS_PER_S if stream else WHOLE_PER_S)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def show(row: dict[str, Any]) -> None:
    """Prints a row."""
    print(
        f"{row['kind']:<8} {row['phase']:<7} {row['requests']:>8} {row['errors']:>6} {row['cut']:>4} "
        f"{row['calls'] / row['requests']:>6.3f} {row['p50_ms']:>7.1f} {row['p99_ms']:>7.1f}  {row['breaker']}",
        flush=True,
    )


def verdicts(rows: list[dict[str, Any]], watch: Watch) -> dict[str, bool]:
    """Returns what must hold, and whether it does."""
    p50 = {(row["kind"], row["phase"]): row["p50_ms"] for row in rows}
    seen = {kind: [state for _, state in watch.states[kind]] for kind in KINDS}
    return {
        "nobody was left without an answer": not any(row["errors"] for row in rows),
        f"at most {MAX_CALLS} calls for each request, in every phase": all(
            row["calls"] <= MAX_CALLS * row["requests"] for row in rows
        ),
        "the breaker of the ordered upstream was seen to open, and closed again": "open" in seen["ordered"]
        and seen["ordered"][-1] == "closed",
        f"the median with one upstream dead is at most {MAX_P50} of the normal one": all(
            p50[kind, "killed"] <= MAX_P50 * p50[kind, "normal"] for kind in KINDS
        ),
    }


def catalogue() -> str:
    """Returns two providers and a model for each kind."""
    text = ""
    for place, (kind, extra) in enumerate(KINDS.items()):
        for number, name in enumerate(("first", "second")):
            text += PROVIDER.format(name=f"{kind}-{name}", port=FIRST_PORT + 2 * place + number)
        text += MODEL.format(kind=kind, extra=extra)
    return text


def main() -> None:
    """Measures, prints, keeps and judges."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pace", type=float, default=1.0, help="stretches every phase by this factor")
    pace = parser.parse_args().pace
    build()
    os.sched_setaffinity(0, {int(LOAD_CORE)})
    with tempfile.TemporaryDirectory(prefix="quillgate-bench-") as name, ExitStack() as stack:
        pairs = {}
        for place, kind in enumerate(KINDS):
            pairs[kind] = (Upstream(FIRST_PORT + 2 * place), Upstream(FIRST_PORT + 2 * place + 1))
            for upstream in pairs[kind]:
                stack.callback(upstream.kill)
                upstream.start()
        target = stack.enter_context(service(Path(name), catalogue(), apart=False))
        watch = stack.enter_context(watching(Path(name), target.key))
        bench = Bench(target, watch, pairs)
        bench.run(Phase("warm up", "", 0), 2)
        print(f"{'model':<8} {'phase':<7} requests errors  cut  calls     p50     p99  first upstream's breaker, s")
        rows = []
        for phase in PHASES:
            for row in bench.run(phase, phase.seconds * pace):
                rows.append(row)
                show(row)
        for kind in KINDS:
            own = [row for row in rows if row["kind"] == kind]
            total = {name: sum(row[name] for row in own) for name in ("requests", "errors", "cut", "calls")}
            print(f"{kind:<8} total   {total['requests']:>8} {total['errors']:>6} {total['cut']:>4} "
                  f"{total['calls'] / total['requests']:>6.3f}")  # fmt: skip
        found = verdicts(rows, watch)
    results = BENCH / "results"
    results.mkdir(exist_ok=True)
    stamp = time.strftime("%Y-%m-%dT%H%M%SZ", time.gmtime())
    (results / f"upstreams-{stamp}.json").write_text(json.dumps({"rows": rows, "verdicts": found}, indent=2))
    for verdict, holds in found.items():
        print(f"{'holds' if holds else 'DOES NOT HOLD'}: {verdict}")
    sys.exit(not all(found.values()))


if __name__ == "__main__":
    main()
