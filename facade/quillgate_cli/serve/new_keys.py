"""Which keys a start is asked to make; for a process that imports nothing of the service."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class NewKeys:
    """Which keys to make and print at this start."""

    developer: bool = False
    admin: bool = False

    def words(self) -> list[str]:
        """Says it in words, for a worker to read."""
        return [word for word, asked in (("developer", self.developer), ("admin", self.admin)) if asked]

    @classmethod
    def of(cls, words: Iterable[str]) -> Self:
        """Reads the words."""
        asked = set(words)
        return cls(developer="developer" in asked, admin="admin" in asked)
