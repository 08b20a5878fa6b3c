"""Guards against more work per request: counts instructions and calls and compares them with committed figures, ± 10 %.

    python bench/guard              compare; ends with 1 on a deviation, with 3 where nothing can be counted
    python bench/guard --renew      keep what is counted now as the figures

No clock is involved, so the result does not depend on the machine or on who else uses it. It takes some ten seconds.
"""

import argparse
import sys

from codec_work import codec_work
from guard_figures import FIGURES, deviations, read_figures, write_figures
from request_work import request_work
from work_counter import CAN_COUNT, Work, WorkCounter

NOT_COUNTED = 3


def main() -> int:
    """Counts, prints, and compares or keeps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--renew", action="store_true", help="keep what is counted now as the figures")
    arguments = parser.parse_args()
    if not CAN_COUNT:
        print("only Python 3.11 can count this", file=sys.stderr)
        return NOT_COUNTED
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    kept = read_figures(FIGURES, python)
    found = {**codec_work(WorkCounter()), **request_work(WorkCounter())}
    show(kept or {}, found)
    if arguments.renew:
        write_figures(FIGURES, python, found)
        return 0
    lines = deviations(kept or {}, found)
    for line in lines:
        print(line, file=sys.stderr)
    if lines:
        print("if that is meant, keep the new figures with `make guard-figures` and commit them", file=sys.stderr)
    return 1 if lines else 0


def show(kept: dict[str, Work], found: dict[str, Work]) -> None:
    """Prints a table, with the change of the instructions."""
    print(f"{'per call, request or chunk':<40} {'instructions':>12} {'calls':>8} {'change':>8}")
    for name, work in found.items():
        change = f"{work.instructions / kept[name].instructions - 1:+.1%}" if name in kept else "new"
        print(f"{name:<40} {work.instructions:>12,.0f} {work.calls:>8,.0f} {change:>8}")


if __name__ == "__main__":
    sys.exit(main())
