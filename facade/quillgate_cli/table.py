"""Lays out rows of text in columns. Pure: writes nothing; control characters must already be spelt out."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from tabulate import tabulate

_GAP = 2
_TITLE_PADDING = 2  # tabulate's own: a column is at least this much wider than its title
_LEAST_WIDTH = 12


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table; `whole` cells (ids, days) are never broken over lines."""

    title: str
    number: bool = False
    whole: bool = False


def table_text(columns: Sequence[Column], rows: Sequence[Sequence[str]], *, room: int | None) -> str:
    """Returns the rows under their titles; with `room`, in characters, long cells are folded to fit into it.

    Numbers and whole cells are never folded, so a table of many may still be wider than `room`.
    """
    return tabulate(
        _folded(columns, rows, room),
        headers=[column.title for column in columns],
        tablefmt="simple",
        colalign=["right" if column.number else "left" for column in columns] if rows else None,
        disable_numparse=True,
    )


def fields_text(fields: Sequence[tuple[str, str]], *, room: int | None) -> str:
    """Returns a line per field, names to the left; with `room`, in characters, long values are folded."""
    rows = _folded([Column("", whole=True), Column("")], fields, room)
    return tabulate(rows, tablefmt="plain", disable_numparse=True)


def _folded(columns: Sequence[Column], rows: Sequence[Sequence[str]], room: int | None) -> Sequence[Sequence[str]]:
    if room is None:
        return rows
    limit = _limit(columns, rows, room)
    return [
        [
            cell if column.number or column.whole else _fold(cell, limit)
            for column, cell in zip(columns, row, strict=True)
        ]
        for row in rows
    ]


def _limit(columns: Sequence[Column], rows: Sequence[Sequence[str]], room: int) -> int:
    """Returns the largest width of a foldable cell with which the table fits, but no less than is readable."""
    widths = [max(_title_width(column), *(len(row[at]) for row in rows), 0) for at, column in enumerate(columns)]
    foldable = [width for column, width in zip(columns, widths, strict=True) if not (column.number or column.whole)]
    left = room - (sum(widths) - sum(foldable)) - _GAP * (len(columns) - 1)
    fits = (limit for limit in range(room, _LEAST_WIDTH, -1) if sum(min(width, limit) for width in foldable) <= left)
    return next(fits, _LEAST_WIDTH)


def _title_width(column: Column) -> int:
    return len(column.title) + _TITLE_PADDING if column.title else 0


def _fold(cell: str, limit: int) -> str:
    return textwrap.fill(cell, limit, break_on_hyphens=False) if len(cell) > limit else cell
