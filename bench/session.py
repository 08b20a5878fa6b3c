"""One run of the bench: the mock provider, how long each piece of work takes, and every figure as it was got."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from load import LoadFigures, load
from service import CATALOGUE, Service, service

WARM_UP_S = 1.0


@dataclass(frozen=True)
class Session:
    """What every piece of work is given."""

    mock: Service
    seconds: float
    raw: list[dict[str, Any]] = field(default_factory=list)

    def load(self, work: str, target: Service, *arguments: str, seconds: float = 0) -> LoadFigures:
        """Puts load on a target, on the mock itself to know what is not the target's, and keeps all figures."""
        found = load(target, *arguments, seconds=seconds or self.seconds)
        self.keep(work, found)
        return found

    def keep(self, work: str, figures: dict[str, Any]) -> None:
        """Keeps figures for the file of results."""
        self.raw.append({"work": work, **figures})

    @contextmanager
    def quillgate(
        self, *, apart: bool = False, options: Sequence[str] = (), core: str | None = None, **environ: str
    ) -> Iterator[Service]:
        """Runs a warm Quillgate with a fresh database for the time of a block."""
        with tempfile.TemporaryDirectory(prefix="quillgate-bench-") as folder:
            catalogue = CATALOGUE.format(url=self.mock.url)
            place = {} if core is None else {"core": core}
            with service(Path(folder), catalogue, apart=apart, options=options, **place, **environ) as target:
                load(target, "--c", "16", seconds=WARM_UP_S)
                yield target


def cpu_ms(figures: LoadFigures) -> float:
    """The service's CPU milliseconds per answer."""
    return 1_000 * float(figures["cpu_s"]) / max(int(figures["ok"]), 1)


def postgres_cpu_ms(figures: LoadFigures) -> float:
    """PostgreSQL's CPU milliseconds per answer."""
    return 1_000 * float(figures["postgres_cpu_s"]) / max(int(figures["ok"]), 1)


def cpu_us_per_chunk(figures: LoadFigures) -> float:
    """The service's CPU microseconds per chunk that a client got."""
    return 1e6 * float(figures["cpu_s"]) / max(int(figures["chunks"]), 1)
