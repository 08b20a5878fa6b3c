"""Replaces every facade and every core in turn under load, and counts the requests whose callers noticed: none may.

    PYTHONPATH=tests python -m faults.rolling [--rate 200] [--stream-share 0.1] [--stream-s 5 30] [--rounds 1]
                                              [--pairs] [--haproxy]

Ends with 1 unless every request was answered to its end and is in the books exactly once.
"""

import argparse
import sys
from datetime import UTC, datetime

import uvloop
from faults.rolling.run import Plan, rolling


def main() -> int:
    """Run it, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=200.0, help="requests a second")
    parser.add_argument("--stream-share", type=float, default=0.1, help="how many of them are streams")
    parser.add_argument("--stream-s", type=float, nargs=2, default=(5.0, 30.0), help="how long those take")
    parser.add_argument("--rounds", type=int, default=1, help="how often each replica is replaced")
    parser.add_argument("--pairs", action="store_true", help="replace a core and a facade at once")
    parser.add_argument("--haproxy", action="store_true", help="balance with HAProxy and deploy/haproxy.cfg")
    asked = parser.parse_args()
    plan = Plan(
        asked.rate,
        asked.stream_share,
        *asked.stream_s,
        rounds=asked.rounds,
        in_pairs=asked.pairs,
        unready_s=5.0 if asked.haproxy else Plan.unready_s,
        haproxy=asked.haproxy,
    )
    finding = uvloop.run(rolling(plan, _say))
    for attempt in finding.failures[:20]:
        _say(str(attempt))
    if finding.verdict is not None:
        for story in (*finding.verdict.lost, *finding.verdict.doubled)[:20]:
            _say(story)
    _say(f"{finding} {'good' if finding.is_good else 'NOT AS PROMISED'}")
    return 0 if finding.is_good else 1


def _say(line: str) -> None:
    print(f"{datetime.now(UTC):%H:%M:%S} {line}", flush=True)


sys.exit(main())
