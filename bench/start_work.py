"""Cold start: from the start of the process to its first answer, its database included. On no particular core."""

import subprocess
import tempfile
import time
from pathlib import Path

from row import Row
from service import CATALOGUE, QUILLGATE, ask, measured, read_until, running, start_options
from session import Session


def cold_start(session: Session) -> list[Row]:
    """Measures a start in an empty data directory, and one in the same directory after that."""
    with tempfile.TemporaryDirectory(prefix="quillgate-bench-") as folder:
        first = _start(session, Path(folder))
        again = _start(session, Path(folder))
    work = "cold start, database included"
    session.keep(work, {"first_s": first, "again_s": again})
    return [Row(work, "s to first answer, new data", first, 3.0), Row(work, "s to first answer, old data", again, 3.0)]


def _start(session: Session, folder: Path) -> float:
    """Returns the seconds until the first answer."""
    options = start_options(folder, CATALOGUE.format(url=session.mock.url))
    begin = time.monotonic()
    command = [str(QUILLGATE), "serve", "--new-key"]
    with running(command, stdout=subprocess.PIPE, **options) as process:
        printed = read_until(process, r"Your key +(\S+)")
        ask(measured(printed.string, printed[1], process))
        return time.monotonic() - begin
