"""How often requests may be sent a second time: a bounded share of all, so that retries never double an outage."""

from typing import Final

SHARE: Final = 0.1
"""Retries for each request, on average."""

BURST: Final = 500.0
"""Retries that may be saved up: enough for what is under way at an upstream that dies, when the process is half full.

What comes after that is not retried but kept away by the breaker, which opens after 20 failures.
"""


class RetryBudget:
    """Every request pays in a share of a retry; a retry takes a whole one. Belongs to one event loop."""

    def __init__(self, *, share: float = SHARE, burst: float = BURST) -> None:
        self._share = share
        self._burst = burst
        self._saved = burst

    def pay_in(self) -> None:
        """Counts one request."""
        self._saved = min(self._burst, self._saved + self._share)

    def take(self) -> bool:
        """Takes one retry out; False when there is none."""
        if self._saved < 1:
            return False
        self._saved -= 1
        return True

    def give_back(self) -> None:
        """Puts one back that was taken out and came to nothing."""
        self._saved = min(self._burst, self._saved + 1)
