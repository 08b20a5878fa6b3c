"""Reads times and lengths of time as people type them: `30d`, `12h`, `1d12h`, `2027-01-31T00:00:00Z`. Pure."""

import re
from datetime import UTC, datetime, timedelta

from quillgate_cli.failure import WrongUsage

_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_DURATION = re.compile(r"(?:[0-9]{1,9}[smhdw])+")
_PART = re.compile(r"([0-9]+)([smhdw])")
_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:[Zz]|[+-]\d\d:\d\d)", re.ASCII)


def parse_duration(text: str) -> timedelta:
    """Reads numbers with the units s, m, h, d, w, such as `12h`, or a plain `0`; raises WrongUsage otherwise."""
    if text == "0":
        return timedelta()
    if _DURATION.fullmatch(text) is None:
        raise WrongUsage(f"'{text}' is no length of time: write for instance 30d, 12h or 1d12h")
    try:
        return timedelta(seconds=sum(int(number) * _UNIT_S[unit] for number, unit in _PART.findall(text)))
    except OverflowError:
        raise WrongUsage(f"'{text}' is too long a time") from None


def parse_expiry(text: str, *, now: datetime) -> datetime:
    """Reads a moment in RFC 3339, or a duration from `now` on, and returns it in UTC; raises WrongUsage otherwise.

    A moment without a zone is refused: whose midnight it means would be a guess.
    """
    try:
        if _RFC_3339.fullmatch(text) is not None:
            return datetime.fromisoformat(text.upper()).astimezone(UTC)
        if _DURATION.fullmatch(text) is not None:
            return now + parse_duration(text)
    except (ValueError, OverflowError):
        raise WrongUsage(f"'{text}' is no moment that can be written") from None
    raise WrongUsage(f"'{text}' is no time: write for instance 30d, 12h or 2027-01-31T00:00:00Z")
