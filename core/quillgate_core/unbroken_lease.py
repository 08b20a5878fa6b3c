"""Whether this process may judge that others are dead: only while nothing has kept it, or them, from renewing. Pure.

After the database was away for longer than a lease, every lease has run out and nobody is dead. Who finds out first
must not charge what the others hold, so it waits until they have had the time to renew and to land their ends.
"""


class UnbrokenLease:
    """How long one process's lease has been renewed in time, by the monotonic clock, in seconds.

    Two renewals more than half a lease apart are a break, though the lease may have held: another process, which
    renewed a little earlier, may have lost its own meanwhile.
    """

    def __init__(self, lease_s: float) -> None:
        self._lease_s = lease_s
        self._since_s: float | None = None
        self._renewed_s = 0.0

    def renew(self, start_s: float, *, was_held: bool) -> None:
        """Note a renewal that succeeded; `start_s` is when it began, `was_held` what the database said."""
        if not was_held or not self._is_recent(start_s):
            self._since_s = start_s
        self._renewed_s = start_s

    def end(self) -> None:
        """Note that the lease was given up."""
        self._since_s = None

    def is_proven(self, now_s: float) -> bool:
        """Say whether the lease has been held for the length of a lease without a break, and is now."""
        return self._since_s is not None and self._is_recent(now_s) and now_s - self._since_s >= self._lease_s

    def _is_recent(self, now_s: float) -> bool:
        return self._since_s is not None and now_s - self._renewed_s <= self._lease_s / 2
