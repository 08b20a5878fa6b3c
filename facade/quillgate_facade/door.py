"""Where requests wait while more come than this process has time for, and where the rest is turned away.

One event loop serves everybody, so what it cannot keep up with would wait inside it: in sockets that are read late, in
callbacks that run late, everywhere at once, and running streams would wait too. The door keeps that outside. In each
turn of the loop it lets a few requests begin: as many as keep a turn short. The others wait in line, in the order of
arrival, unparsed. A crowd of a thousand that comes at once may join. Later, when whoever joins would wait for long, he
is told at once to come back. That costs a fraction of serving, so that the time is left for those who were let in.

Only our own time counts. A request that waits for its provider does nothing here, so however slow a provider is, and
however many wait for it, nobody is kept at the door for it. Nothing here knows HTTP.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

TURN_CPU_S = 0.005
"""How much a turn of the loop should work at most, in seconds: what a running stream waits."""

SHORT_TURN_CPU_S = 0.003
"""The same while others are turned away, who wait as long for it; more than `LEAST_TURN_S`, or the loop would idle."""

LEAST_SHARE = 8
"""So many requests a turn may take longer then: fewer at a time, as on a slow machine, cost 6 to 9 % more each, since
the ledger writes them together."""

LONG_TURN_CPU_S = 0.01
"""How long those may take, in seconds."""

REFUSAL_COST = 0.1
"""What turning one away costs, as a part of what serving one does: 0.04 to 0.1, it depends on the machine."""

SERVED_PER_REFUSAL = 2 * REFUSAL_COST
"""For each that is turned away a turn serves so many at least, whatever that takes: clients that come back at once are
turned away as often as there is time for it, and would get all of the time."""

LEAST_TURN_S = 0.002
"""Turns that are shorter count as one, in seconds: a loop that waits for the database turns often."""

CROWD = 1024
"""How many may come at once: so long is a line that anybody may join at its beginning, however slow the machine is."""

BURST_S = 0.25
"""How long that is the rule, in seconds."""

MAX_WAIT_S = 0.1
"""How long one who joins later may have to wait if the line moves as of late, unless it is short; in seconds."""

SHORT_LINE = 256
"""A line that anybody may join at any time. Longer ones cost more than they are good for."""

MAX_WAITING_BYTES = 64 * 1024 * 1024
"""How much those in line may have sent."""

_FIRST_SHARE = 16
_MAX_SHARE = 64

#: What a turn has cost weighs so much less in the next one.
_FADE = 0.9

#: Turns from the bytes of a request to its handler: the protocol's task wakes, makes the handler's, and that begins.
_TURNS_TO_THE_HANDLER = 3


class Visitor(Protocol):
    """Whoever waits in line; a connection."""

    waiting_bytes: int
    """What it has sent; 0 once it has gone."""

    def let_in(self) -> None:
        """Begins what waits."""


class Timer(Protocol):
    """The part of an event loop that the door uses."""

    def time(self) -> float:
        """Returns the time that this turn of the loop began, in seconds."""

    def call_later(self, delay: float, callback: Callable[[], object], /) -> object:
        """Runs a callback after a delay in seconds, in the first turn that begins then."""


class Door:
    """Decides who begins now, who waits and who is turned away; `cpu_time` is what the loop's thread has worked."""

    def __init__(
        self, loop: Timer, cpu_time: Callable[[], float] = time.thread_time, *, short_line: int = SHORT_LINE
    ) -> None:
        self._loop = loop
        self._cpu_time = cpu_time
        self._short_line = short_line
        self._line: deque[Visitor] = deque()
        self._line_time = 0.0
        self._line_age_s = 0.0
        self._line_let_in = 0.0
        self._longest_line: float = CROWD
        self._turn_time = 0.0
        self._begun = 0
        self._refused = 0
        self._share = _FIRST_SHARE
        self._worked_until_s = cpu_time()
        self._worked_s = 0.0
        self._all_done = 0.0
        self.waiting_bytes = 0

    def enter(self) -> bool:
        """Takes a place in this turn of the loop for a request that begins now; False when it has to wait."""
        if self._line:
            return False
        now = self._loop.time()
        if now - self._turn_time >= LEAST_TURN_S:
            self._begin_turn(now)
        elif self._begun >= self._share:
            return False
        self._begun += 1
        return True

    def is_shut(self) -> bool:
        """Tells whether the line is too long for one more."""
        return len(self._line) >= self._longest_line or self.waiting_bytes > MAX_WAITING_BYTES

    def note_refusal(self) -> None:
        """Takes note that somebody was turned away in this turn."""
        self._refused += 1

    def line_up(self, visitor: Visitor) -> None:
        """Puts a visitor at the end of the line."""
        if not self._line:
            self._line_time = self._loop.time()
            self._line_age_s = self._line_let_in = 0.0
            self._longest_line = CROWD
            self._loop.call_later(LEAST_TURN_S, self._let_in)
        self._line.append(visitor)

    async def empty(self) -> None:
        """Returns when nobody is in line any more and those who were have begun."""
        while self._line:  # noqa: ASYNC110 (an event would be set each time that a line ends)
            await asyncio.sleep(LEAST_TURN_S)
        for _ in range(_TURNS_TO_THE_HANDLER):
            await asyncio.sleep(0)

    def _let_in(self) -> None:
        """Runs once in each turn of the loop while there is a line."""
        now = self._loop.time()
        self._line_age_s = self._line_age_s * _FADE + now - self._turn_time
        self._line_let_in = self._line_let_in * _FADE + self._begun
        if now - self._line_time > BURST_S:
            self._longest_line = max(self._short_line, MAX_WAIT_S * self._line_let_in / self._line_age_s)
        self._begin_turn(now)
        line = self._line
        while line and self._begun < self._share:
            visitor = line.popleft()
            if visitor.waiting_bytes:
                self._begun += 1
                visitor.let_in()
        if line:
            self._loop.call_later(LEAST_TURN_S, self._let_in)

    def _begin_turn(self, now: float) -> None:
        """Sets the share: what a turn may work, divided by what a request has cost of late with all that goes on."""
        worked_until_s = self._cpu_time()
        self._worked_s = self._worked_s * _FADE + worked_until_s - self._worked_until_s
        self._all_done = self._all_done * _FADE + self._begun + self._refused * REFUSAL_COST
        self._worked_until_s = worked_until_s
        self._turn_time = now
        rate = self._all_done / self._worked_s if self._worked_s else math.inf
        share = TURN_CPU_S * rate
        if self._refused:
            least = min(LEAST_SHARE, LONG_TURN_CPU_S * rate)
            share = max(SHORT_TURN_CPU_S * rate, least, self._refused * SERVED_PER_REFUSAL)
        self._share = int(max(1, min(_MAX_SHARE, share)))
        self._begun = self._refused = 0
