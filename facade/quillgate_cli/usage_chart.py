"""Draws days as bars of block characters, or of plain ASCII. Pure: writes nothing."""

from collections.abc import Sequence
from dataclasses import dataclass

_EIGHTHS = " ▏▎▍▌▋▊▉█"
_LEAST_WIDTH = 10
_FARTHEST_LINE = 4
"""An allowance of more than so many times the longest bar is not drawn: the bars would be too short to tell apart."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One day: messages drawn from the allowance, and those of the workspace's own provider keys."""

    day: str
    messages: int
    own_messages: int = 0


def chart_text(bars: Sequence[Bar], allowance: int | None, *, width: int, plain: bool) -> str:
    """Returns a line per bar: day, bar, number; the allowance is a dotted line across them where it fits.

    `width` is the terminal's, in characters; `plain` draws with ASCII.
    """
    longest = max((bar.messages for bar in bars), default=0)
    if allowance is not None and not 0 < allowance <= longest * _FARTHEST_LINE:
        allowance = None
    scale = max(longest, allowance or 0, 1)
    room = max(_LEAST_WIDTH, width - 12 - max((len(_label(bar)) for bar in bars), default=0) - 1)
    line = None if allowance is None else min(room - 1, allowance * room // scale)
    return "".join(
        f"{bar.day}  {_drawn(bar.messages, scale, room, line, plain)} {_label(bar)}".rstrip() + "\n" for bar in bars
    )


def _label(bar: Bar) -> str:
    own = f" +{bar.own_messages:,} with own keys" if bar.own_messages else ""
    return f"{bar.messages:,}{own}"


def _drawn(messages: int, scale: int, room: int, line: int | None, plain: bool) -> str:
    """Returns a bar over the whole room. Whatever was used shows, however little; the line shows behind the bar."""
    eighths = max(messages * room * 8 // scale, 1 if messages else 0)
    full, part = divmod(eighths, 8)
    if plain:
        full, part = (full, 0) if full or not messages else (1, 0)
    cells = [("#" if plain else "█")] * full + ([_EIGHTHS[part]] if part else [])
    cells += [" "] * (room - len(cells))
    if line is not None and cells[line] == " ":
        cells[line] = "|" if plain else "┊"
    return "".join(cells)
