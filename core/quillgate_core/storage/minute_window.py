"""What a key has used within the last 60 seconds: requests and their tokens, by the second. Pure.

A window is kept as a flat list of numbers, three for each second with a request: when its last one came (milliseconds
since 1970), how many there were, and their tokens. A second counts until 60 s after that, so whoever looks finds at
most the limit in any 60 seconds.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

WINDOW_MS: Final = 60_000

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)

Counted = Literal["requests", "tokens"]

_PLACES: Final[dict[Counted, int]] = {"requests": 1, "tokens": 2}


class MinuteWindow:
    """A window at one moment; what it counted before that is added up once. `numbers` are those that still count."""

    __slots__ = ("_now", "_now_ms", "_used", "numbers")

    def __init__(self, numbers: Sequence[int], now: datetime) -> None:
        self._now = now
        self._now_ms = (now - _EPOCH) // _MILLISECOND
        first = 0
        while first < len(numbers) and numbers[first] <= self._now_ms - WINDOW_MS:
            first += 3
        self.numbers = list(numbers[first:])
        self._used = [0, sum(self.numbers[1::3]), sum(self.numbers[2::3])]

    def used(self, counted: Counted) -> int:
        """Returns how much has been used."""
        return self._used[_PLACES[counted]]

    def enter(self, *, tokens: int) -> None:
        """Counts a request that begins now."""
        numbers = self.numbers
        if numbers and numbers[-3] // 1000 == self._now_ms // 1000:
            numbers[-3] = self._now_ms
            numbers[-2] += 1
            numbers[-1] += tokens
        else:
            numbers += (self._now_ms, 1, tokens)
        self._used[1] += 1
        self._used[2] += tokens

    def correct(self, reserve_s: int, *, tokens: int) -> None:
        """Adds tokens, mostly fewer than none, to a second since 1970, if that still counts."""
        numbers = self.numbers
        for index in range(len(numbers) - 3, -1, -3):
            if numbers[index] // 1000 == reserve_s:
                before = numbers[index + 2]
                numbers[index + 2] = max(0, before + tokens)
                self._used[2] += numbers[index + 2] - before
                return

    def free_time(self, counted: Counted, amount: int) -> datetime:
        """Returns when so much of what is used does not count any more; a minute from now if it never is so much."""
        place = _PLACES[counted]
        if amount <= 0:
            return self._now
        for index in range(0, len(self.numbers), 3):
            amount -= self.numbers[index + place]
            if amount <= 0:
                return _EPOCH + timedelta(milliseconds=self.numbers[index] + WINDOW_MS)
        return self._now + timedelta(milliseconds=WINDOW_MS)

    def empty_time(self, counted: Counted) -> datetime:
        """Returns when nothing counts any more of what is used."""
        place = _PLACES[counted]
        for index in range(len(self.numbers) - 3, -1, -3):
            if self.numbers[index + place]:
                return _EPOCH + timedelta(milliseconds=self.numbers[index] + WINDOW_MS)
        return self._now
