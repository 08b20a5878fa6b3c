"""What is written down while faults happen: what the provider was sent and gave, and what callers saw of it.

A token names one logical request: it stands in the prompt, so the provider knows it, and is the `Idempotency-Key` of
those requests that have one. Times are seconds of the machine's clock, which PostgreSQL shares.
"""

import asyncio
from collections import defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple

TOKENS_PER_MESSAGE = 16_000


class Tokens(NamedTuple):
    """A usage, in LLM tokens; the prompt's include the cached ones."""

    prompt: int = 0
    cached: int = 0
    completion: int = 0

    def messages(self) -> int:
        """What it counts: the formula once more, apart from the product's."""
        return max(1, -(-(self.prompt - self.cached // 2 + self.completion) // TOKENS_PER_MESSAGE))


@dataclass(slots=True)
class Dispatch:
    """One request as the provider saw it."""

    token: str
    time: float
    fate: str = "running"
    """What became of it: running, whole, caller gone, or the fault that it met."""
    billed: Tokens | None = None
    """What the provider really did, None for nothing: it failed before any output."""
    reported: Tokens | None = None
    """The usage that it sent with a whole answer, None if it sent none."""

    @property
    def is_whole(self) -> bool:
        """Whether the answer was sent to its end."""
        return self.fate == "whole"


@dataclass(slots=True)
class Attempt:
    """One call as its caller saw it; a caller with an idempotency key may make several for one token."""

    token: str
    workspace_id: str
    key_id: str
    kind: str
    """stream, unary or metering."""
    is_idempotent: bool
    start_time: float
    end_time: float = 0.0
    request_id: str = ""
    """The gateway's id of it, empty if the caller never heard of it."""
    status: int = 0
    is_done: bool = False
    """Whether the caller saw the end: `[DONE]`, a whole 2xx body, or a receipt."""
    shown: Tokens | None = None
    note: str = ""


@dataclass
class Record:
    """All of it; the events are set whenever the provider is asked, and whenever a caller has seen an end."""

    attempts: list[Attempt] = field(default_factory=list)
    dispatches: dict[str, list[Dispatch]] = field(default_factory=lambda: defaultdict(list))
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def dispatch(self, token: str, time: float) -> Dispatch:
        """Note that the provider was asked."""
        made = Dispatch(token, time)
        self.dispatches[token].append(made)
        self.asked.set()
        return made

    @property
    def dispatched(self) -> int:
        """How often the provider was asked."""
        return sum(len(found) for found in self.dispatches.values())
