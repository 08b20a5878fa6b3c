"""Remembers for a moment who presented which secret, so that the inference path authenticates without a query.

Bounded in number and age. It may be wrong about a key that has just changed; whoever uses an entry must have the
key's revision checked by the database before anything is spent. Thread-safe; does no I/O.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock

from quillgate_core.principal import Principal


@dataclass(frozen=True, slots=True)
class _Entry:
    principal: Principal
    deadline_s: float


class PrincipalCache:
    """A map from the fingerprint of a secret to its principal that forgets the least recently used first."""

    def __init__(self, *, capacity: int, max_age_s: float, monotonic: Callable[[], float]) -> None:
        self._capacity = capacity
        self._max_age_s = max_age_s
        self._monotonic = monotonic
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self._lock = Lock()

    def get(self, fingerprint: bytes) -> Principal | None:
        """Return the principal if it was put within the last `max_age_s` and its credential has not ended since."""
        with self._lock:
            entry = self._entries.get(fingerprint)
            if entry is None:
                return None
            if self._monotonic() >= entry.deadline_s:
                del self._entries[fingerprint]
                return None
            self._entries.move_to_end(fingerprint)
            return entry.principal

    def put(self, fingerprint: bytes, principal: Principal, *, valid_s: float | None) -> None:
        """Remember the principal; `valid_s` is how long its credential still works, None if without end."""
        age_s = self._max_age_s if valid_s is None else min(self._max_age_s, valid_s)
        with self._lock:
            self._entries[fingerprint] = _Entry(principal, self._monotonic() + age_s)
            self._entries.move_to_end(fingerprint)
            if len(self._entries) > self._capacity:
                self._entries.popitem(last=False)

    def forget(self, key_id: str) -> None:
        """Drop every entry of the key."""
        with self._lock:
            for fingerprint in [f for f, entry in self._entries.items() if entry.principal.key_id == key_id]:
                del self._entries[fingerprint]
