"""Notes when keys were used, in memory, until somebody writes it down. Bounded, thread-safe, no I/O."""

from collections.abc import Callable, Mapping
from threading import Lock


class LastUsedTimes:
    """The keys used since the notes were last taken; beyond `capacity` keys further ones are not noted."""

    def __init__(self, *, capacity: int, monotonic: Callable[[], float]) -> None:
        self._capacity = capacity
        self._monotonic = monotonic
        self._times_s: dict[str, float] = {}
        self._lock = Lock()

    def note(self, key_id: str) -> None:
        """Note that the key is used now."""
        with self._lock:
            if key_id in self._times_s or len(self._times_s) < self._capacity:
                self._times_s[key_id] = self._monotonic()

    def take(self) -> dict[str, float]:
        """Return how many seconds ago each key was used, and forget it."""
        with self._lock:
            taken, self._times_s = self._times_s, {}
            now_s = self._monotonic()
        return {key_id: now_s - time_s for key_id, time_s in taken.items()}

    def put_back(self, ages_s: Mapping[str, float]) -> None:
        """Note again what was taken but could not be written; a use since then counts more."""
        with self._lock:
            now_s = self._monotonic()
            for key_id, age_s in ages_s.items():
                if len(self._times_s) < self._capacity:
                    self._times_s.setdefault(key_id, now_s - age_s)
