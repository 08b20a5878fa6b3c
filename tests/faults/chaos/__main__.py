"""Kills and restarts everything under load for a while, and compares the books with the provider's log.

    PYTHONPATH=tests python -m faults.chaos [--minutes 60] [--seed 1]

Ends with `dispatched N lost 0 doubled 0 over 0 recovered N kills N restarts N`, and with 1 unless these are 0, 0, 0.
"""

import argparse
import random
import sys
from datetime import UTC, datetime

import uvloop
from faults.chaos.run import Plan, chaos


def main() -> int:
    """Run it, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument(
        "--seed", type=int, default=random.randrange(10**6), help="of the dice; chance is not all of it"
    )
    asked = parser.parse_args()
    print(f"seed {asked.seed}", flush=True)
    verdict, _ = uvloop.run(chaos(Plan(asked.minutes * 60, seed=asked.seed), _say))
    return 0 if verdict.is_clean else 1


def _say(line: str) -> None:
    print(f"{datetime.now(UTC):%H:%M:%S} {line}", flush=True)


sys.exit(main())
