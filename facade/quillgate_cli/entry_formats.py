"""Ledger rows as files: CSV, a JSON object a line, or Parquet. Must not know where rows come from.

All have the contract's field names and units. States and sources are words, absent values are empty or null, and
adjustments are a list, which CSV and Parquet hold as JSON.
"""

import csv
import importlib
import io
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO, Final, Protocol

import msgspec
from google.protobuf.descriptor import FieldDescriptor

from quillgate.v1.metering_service_pb2 import LedgerEntry, ReservationState, UsageSource
from quillgate_cli import output
from quillgate_cli.failure import ExitCode, Failure

_FIELDS: Final = LedgerEntry.DESCRIPTOR.fields
_NAMES: Final = tuple(field.name for field in _FIELDS)
_COLUMNS: Final = _NAMES[:-1]
"""All but `adjustments`, the last."""

_STATES: Final = {
    number: name.removeprefix("RESERVATION_STATE_").lower() for name, number in ReservationState.items() if number
}
_SOURCES: Final = {number: name.removeprefix("USAGE_SOURCE_").lower() for name, number in UsageSource.items() if number}


class EntryFile(Protocol):
    """A file that is being written."""

    def write(self, entries: Iterable[LedgerEntry]) -> None:
        """Adds rows, in their order."""

    def close(self) -> None:
        """Writes what belongs behind the last row; the file itself stays open."""


def entry_file(file_format: str, file: BinaryIO) -> EntryFile:
    """Returns what writes rows to an open file in one of FORMATS; raises Failure when that needs what is not there."""
    return _KINDS[file_format](file)


class _CsvFile:
    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._file.write((",".join(_NAMES) + "\r\n").encode())

    def write(self, entries: Iterable[LedgerEntry]) -> None:
        text = io.StringIO()
        csv.writer(text).writerows([*_values(entry), _adjustments_json(entry)] for entry in entries)
        self._file.write(text.getvalue().encode())

    def close(self) -> None:
        pass


class _JsonLines:
    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, entries: Iterable[LedgerEntry]) -> None:
        encode = msgspec.json.encode
        rows = (dict(zip(_NAMES, [*_values(entry), _adjustments(entry)], strict=True)) for entry in entries)
        self._file.write(b"".join(encode(row) + b"\n" for row in rows))

    def close(self) -> None:
        pass


class _ParquetFile:
    """Needs pyarrow, which an installation has by the extra `parquet`; every call of `write` is a row group."""

    def __init__(self, file: BinaryIO) -> None:
        try:
            self._arrow: Any = importlib.import_module("pyarrow")
            parquet: Any = importlib.import_module("pyarrow.parquet")
        except ImportError:
            hint = "pip install 'quillgate[parquet]'"
            raise Failure("Parquet needs pyarrow, which is not installed", ExitCode.FAILED, hint=hint) from None
        text = self._arrow.string()
        kinds = {FieldDescriptor.TYPE_INT64: self._arrow.int64(), FieldDescriptor.TYPE_BOOL: self._arrow.bool_()}
        self._schema = self._arrow.schema([(field.name, kinds.get(field.type, text)) for field in _FIELDS])
        self._writer = parquet.ParquetWriter(file, self._schema, compression="zstd")

    def write(self, entries: Iterable[LedgerEntry]) -> None:
        columns = zip(*([*_values(entry), _adjustments_json(entry)] for entry in entries), strict=True)
        arrays = [
            self._arrow.array(values, type=field.type) for values, field in zip(columns, self._schema, strict=True)
        ]
        self._writer.write_table(self._arrow.table(arrays, schema=self._schema))

    def close(self) -> None:
        self._writer.close()


_KINDS: Final[dict[str, Callable[[BinaryIO], EntryFile]]] = {
    "csv": _CsvFile,
    "jsonl": _JsonLines,
    "parquet": _ParquetFile,
}

FORMATS: Final = tuple(_KINDS)


def _values(entry: LedgerEntry) -> list[Any]:
    """Returns the row's columns in their order, without the adjustments."""
    values = [getattr(entry, name) for name in _COLUMNS]
    values[_STATE] = _STATES.get(entry.state, "")
    values[_SOURCE] = _SOURCES.get(entry.usage_source, "")
    if not entry.HasField("cost_picodollars"):
        values[_COST] = None
    return values


_STATE, _SOURCE, _COST = (_COLUMNS.index(name) for name in ("state", "usage_source", "cost_picodollars"))


def _adjustments(entry: LedgerEntry) -> list[dict[str, Any]]:
    return [output.json_value(adjustment) for adjustment in entry.adjustments]


def _adjustments_json(entry: LedgerEntry) -> str:
    return msgspec.json.encode(_adjustments(entry)).decode() if entry.adjustments else ""
