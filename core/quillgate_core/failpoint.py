"""Named places before and after every durable step, where a test may end the process. Serving does nothing there.

A Failpoint is handed down by constructors, from `Core` to whoever has such a place, and called with its name, from
whatever thread comes by. What it does is the test's: a kill there must lose nothing, double nothing and charge no more
than the hold. It must never become a switch of a running service.
"""

from collections.abc import Callable
from typing import Final

Failpoint = Callable[[str], None]


def no_failpoint(name: str) -> None:
    """Does nothing: what everything but a test passes."""


RESERVE: Final = "reserve"
"""A request is about to be reserved."""

QUEUED: Final = "queued"
"""A step waits for the writer's thread."""

TAKEN: Final = "taken"
"""The writer's thread has taken a batch of steps."""

LOCKED: Final = "locked"
"""The batch's transaction holds its locks and has read; nothing is written."""

WRITTEN: Final = "written"
"""The batch is written, not committed."""

COMMITTED: Final = "committed"
"""The batch is committed, and nobody has heard of it."""

ANSWERED: Final = "answered"
"""The batch's answers are on their way to those that wait for them."""

RESERVED: Final = "reserved"
"""The request is reserved; its provider has not been asked."""

FIRST_OUTPUT: Final = "first output"
"""A stream's first output has come; its caller has not seen it."""

MORE_OUTPUT: Final = "more output"
"""More of a stream has come."""

WHOLE: Final = "whole"
"""The answer is whole, its usage known, and not settled."""

SETTLED: Final = "settled"
"""The request is settled; its caller has not seen the end."""

JOURNAL_WRITTEN: Final = "journal written"
"""Ends that the database cannot take now are in the journal's file, perhaps not on disk."""

JOURNALED: Final = "journaled"
"""They are on disk."""

RELEASE: Final = "release"
"""The provider failed before any output; the reservation is about to be released."""

RELEASED: Final = "released"
"""The reservation is released; its caller has not heard of the failure."""

LEASE: Final = "lease"
"""The lease is about to be made or extended."""

LEASE_HELD: Final = "lease held"
"""The lease is made or extended."""

RECOVERY: Final = "recovery"
"""Rows of dead owners are about to be looked for."""

RECOVERY_WRITTEN: Final = "recovery written"
"""Their holds are charged, not committed."""

RECOVERED: Final = "recovered"
"""Their holds are charged."""

NAMES: Final = (
    RESERVE,
    QUEUED,
    TAKEN,
    LOCKED,
    WRITTEN,
    COMMITTED,
    ANSWERED,
    RESERVED,
    FIRST_OUTPUT,
    MORE_OUTPUT,
    WHOLE,
    SETTLED,
    JOURNAL_WRITTEN,
    JOURNALED,
    RELEASE,
    RELEASED,
    LEASE,
    LEASE_HELD,
    RECOVERY,
    RECOVERY_WRITTEN,
    RECOVERED,
)
"""All of them."""
