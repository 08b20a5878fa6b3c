"""Lays out rows of text in columns. Pure: writes nothing; control characters must already be spelt out."""

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

_GAP = 2
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
    titles = [column.title for column in columns]
    cells = [titles, *_folded(columns, rows, room)]
    widths = _widths(cells)
    head, *body = _lines(columns, cells, widths)
    return "\n".join([head, (" " * _GAP).join("-" * width for width in widths), *body])


def fields_text(fields: Sequence[tuple[str, str]], *, room: int | None) -> str:
    """Returns a line per field, names to the left; with `room`, in characters, long values are folded."""
    columns = [Column("", whole=True), Column("")]
    cells = _folded(columns, fields, room)
    return "\n".join(_lines(columns, cells, _widths(cells)))


def _widths(cells: Sequence[Sequence[str]]) -> list[int]:
    return [max(len(line) for cell in column for line in cell.split("\n")) for column in zip(*cells, strict=True)]


def _lines(columns: Sequence[Column], cells: Sequence[Sequence[str]], widths: Sequence[int]) -> Iterator[str]:
    """Yields the lines of all rows; a row is as high as its highest cell."""
    for row in cells:
        for line in zip_longest(*(cell.split("\n") for cell in row), fillvalue=""):
            aligned = [
                text.rjust(width) if column.number else text.ljust(width)
                for column, text, width in zip(columns, line, widths, strict=True)
            ]
            yield (" " * _GAP).join(aligned).rstrip()


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
    widths = [max(len(column.title), *(len(row[at]) for row in rows), 0) for at, column in enumerate(columns)]
    foldable = [width for column, width in zip(columns, widths, strict=True) if not (column.number or column.whole)]
    left = room - (sum(widths) - sum(foldable)) - _GAP * (len(columns) - 1)
    fits = (limit for limit in range(room, _LEAST_WIDTH, -1) if sum(min(width, limit) for width in foldable) <= left)
    return next(fits, _LEAST_WIDTH)


def _fold(cell: str, limit: int) -> str:
    return textwrap.fill(cell, limit, break_on_hyphens=False) if len(cell) > limit else cell
