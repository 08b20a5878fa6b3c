"""Ledger rows as CSV and JSON lines, a message's rows at a time. Pure: writes nothing."""

import csv
import io
from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final, Protocol

from quillgate.v1.metering_service_pb2 import LedgerEntry
from quillgate_cli.ledger_columns import COLUMNS, adjustment_value, time_text
from quillgate_cli.output import json_line

_FORMULA_STARTS: Final = ("=", "+", "-", "@", "\t", "\r")


class TextFormat(Protocol):
    """A format that is written piece by piece."""

    def head(self) -> str:
        """Returns what a file begins with."""

    def rows(self, entries: Iterable[LedgerEntry]) -> str:
        """Returns rows, as they stand anywhere in a file."""


class CsvFormat:
    """CSV (RFC 4180) with a line of the columns' names.

    Callers choose request ids and models: text that a spreadsheet would run as a formula gets an apostrophe before it.
    """

    def head(self) -> str:
        """Returns the names of the columns."""
        return _csv_lines([[column.name for column in COLUMNS]])

    def rows(self, entries: Iterable[LedgerEntry]) -> str:
        """Returns a line per row."""
        return _csv_lines([_cell(column.value(entry)) for column in COLUMNS] for entry in entries)


class JsonLinesFormat:
    """A JSON object a line, in ASCII, each row with its adjustments as a list."""

    def head(self) -> str:
        """Returns nothing: every line has its names."""
        return ""

    def rows(self, entries: Iterable[LedgerEntry]) -> str:
        """Returns a line per row."""
        return "".join(json_line(_row_value(entry)) for entry in entries)


TEXT_FORMATS: Final[dict[str, TextFormat]] = {"csv": CsvFormat(), "jsonl": JsonLinesFormat()}


def _csv_lines(rows: Iterable[list[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerows(rows)
    return text.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, str):
        return "'" + value if value.startswith(_FORMULA_STARTS) else value
    if isinstance(value, bool):
        return str(value).lower()
    return time_text(value) if isinstance(value, datetime) else value


def _row_value(entry: LedgerEntry) -> dict[str, Any]:
    values = {column.name: column.value(entry) for column in COLUMNS}
    row = {name: time_text(value) if isinstance(value, datetime) else value for name, value in values.items()}
    return {**row, "adjustments": [adjustment_value(each) for each in entry.adjustments]}
