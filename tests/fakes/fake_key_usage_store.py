"""What a key used, without a database."""

from datetime import UTC, datetime

from quillgate_core.key import Key
from quillgate_core.key_usage import KeyCount, KeyFigures

NOW = datetime(2030, 12, 31, 12, 0, 0, 500_000, tzinfo=UTC)
"""Noon of the last day of a year, which is the end of a month as well."""


class FakeKeyUsageStore:
    """The same figures for every key, as the test sets them."""

    def __init__(self) -> None:
        self.figures = KeyFigures(NOW, KeyCount(), KeyCount())
        self.asked: list[str] = []

    def read(self, key: Key) -> KeyFigures:
        """Remember the question."""
        self.asked.append(key.key_id)
        return self.figures
