"""Ledger rows as files: CSV, or a JSON object a line. Must not know where rows come from or where they are written to.

Both have the contract's field names and units. States and sources are words, absent values are empty or null, and
adjustments are a list, which CSV holds as JSON.
"""

import csv
import io
from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec
from google.protobuf.message import Message

from quillgate.v1.metering_service_pb2 import LedgerEntry
from quillgate_cli import output
from quillgate_codec.mapping import is_repeated

FORMATS: Final = ("csv", "jsonl")

_NAMES: Final = [field.name for field in LedgerEntry.DESCRIPTOR.fields]

Encode = Callable[[Iterable[LedgerEntry]], bytes]
"""Encodes rows in their order; the rows of several calls belong one behind the other."""


def header(file_format: str) -> bytes:
    """Returns what a file of the format begins with, before any row."""
    return (",".join(_NAMES) + "\r\n").encode() if file_format == "csv" else b""


def encoder(file_format: str) -> Encode:
    """Returns what encodes rows in one of FORMATS."""
    return {"csv": _csv_lines, "jsonl": _json_lines}[file_format]


def _csv_lines(entries: Iterable[LedgerEntry]) -> bytes:
    text = io.StringIO()
    lines = csv.writer(text)
    for entry in entries:
        values = _values(entry)
        values["adjustments"] = msgspec.json.encode(values["adjustments"]).decode() if entry.adjustments else ""
        lines.writerow(values.values())
    return text.getvalue().encode()


def _json_lines(entries: Iterable[LedgerEntry]) -> bytes:
    return b"".join(msgspec.json.encode(_values(entry)) + b"\n" for entry in entries)


def _values(entry: LedgerEntry) -> dict[str, Any]:
    values = output.json_value(entry)
    for field in LedgerEntry.DESCRIPTOR.fields:
        if field.enum_type is not None and not is_repeated(field):
            values[field.name] = _word(entry, field)
    return values


def _word(message: Message, field: Any) -> str:
    """Returns an enum's value in small letters without its type's name, empty for the unspecified one."""
    number = getattr(message, field.name)
    known = field.enum_type.values_by_number.get(number)
    if known is None:
        return str(number)
    prefix = field.enum_type.values_by_number[0].name.removesuffix("UNSPECIFIED")
    return "" if number == 0 else str(known.name.removeprefix(prefix)).lower()
