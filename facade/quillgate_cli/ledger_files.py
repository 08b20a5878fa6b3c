"""Where exported rows go: standard output, a text file that can be gone on with, or a Parquet file.

A text file keeps its place beside it, in `FILE.cursor`: which row was the last, and how long the file was then. What
was written behind that, by a process that died, is cut off before the export goes on.
"""

import importlib
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, Self

import msgspec

from quillgate.v1.metering_service_pb2 import ExportLedgerResponse
from quillgate_cli import output
from quillgate_cli.failure import ExitCode, Failure, WrongUsage
from quillgate_cli.ledger_columns import COLUMNS
from quillgate_cli.ledger_formats import TEXT_FORMATS

_ROWS_IN_GROUP: Final = 100_000
_ARROW_KINDS: Final = {"text": "string", "number": "int64", "flag": "bool_"}


class LedgerFile(Protocol):
    """Takes an export's messages, as a context manager; `cursor` is where it goes on, empty for the beginning."""

    cursor: str

    def __enter__(self) -> Self:
        """Makes it ready to be written to."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes it; what a failure leaves can be gone on with, or is gone."""

    def add(self, message: ExportLedgerResponse) -> None:
        """Writes the rows of a message; raises Failure."""


class StdoutFile:
    """Text on standard output; behind a cursor that was given by hand, it goes on without the columns' names."""

    def __init__(self, name: str, cursor: str) -> None:
        self.cursor = cursor
        self._format = TEXT_FORMATS[name]

    def __enter__(self) -> Self:
        if not self.cursor:
            output.write(self._format.head())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing is to be closed."""

    def add(self, message: ExportLedgerResponse) -> None:
        """Prints the rows."""
        output.write(self._format.rows(message.entries))


class _Place(msgspec.Struct):
    """What `FILE.cursor` holds."""

    cursor: str
    size_bytes: int


class TextFile:
    """A file of text, made anew, or gone on with behind its last row (`resume`)."""

    def __init__(self, path: Path, name: str, *, cursor: str = "", resume: bool = False) -> None:
        self._path = path
        self._place_path = path.with_name(path.name + ".cursor")
        self._format = TEXT_FORMATS[name]
        self._resume = resume
        self._place = self._read_place() if resume else _Place(cursor, 0)
        self.cursor = self._place.cursor

    def __enter__(self) -> Self:
        try:
            self._file = self._path.open("r+b" if self._resume else "wb")
            self._file.truncate(self._place.size_bytes)
            self._file.seek(self._place.size_bytes)
        except OSError as error:
            raise _cannot_write(self._path, error) from None
        if not self._resume:
            self._write(self._format.head(), self.cursor)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, message: ExportLedgerResponse) -> None:
        """Writes the rows and notes their place."""
        self._write(self._format.rows(message.entries), message.cursor)

    def _write(self, text: str, cursor: str) -> None:
        """Writes, and only then notes it: what a crash between the two leaves is behind the noted size."""
        data = text.encode()
        try:
            self._file.write(data)
            self._file.flush()
            self._place = _Place(cursor, self._place.size_bytes + len(data))
            _write_whole(self._place_path, msgspec.json.encode(self._place))
        except OSError as error:
            raise _cannot_write(self._path, error) from None

    def _read_place(self) -> _Place:
        try:
            place = msgspec.json.decode(self._place_path.read_bytes(), type=_Place)
            size_bytes = self._path.stat().st_size
        except FileNotFoundError as error:
            raise WrongUsage(f"nothing to resume: there is no {error.filename}") from None
        except (OSError, msgspec.MsgspecError) as error:
            raise Failure(f"cannot read {self._place_path}: {error}", ExitCode.FAILED) from None
        if place.size_bytes > size_bytes:
            raise Failure(f"{self._path} is shorter than {self._place_path} says", ExitCode.FAILED)
        return place


class ParquetFile:
    """A Parquet file, which appears under its name when it is whole. Needs pyarrow: the extra `quillgate[parquet]`."""

    def __init__(self, path: Path, cursor: str = "") -> None:
        try:
            self._arrow: Any = importlib.import_module("pyarrow")
            self._parquet: Any = importlib.import_module("pyarrow.parquet")
        except ImportError:
            raise Failure(
                "Parquet needs pyarrow, which is not installed",
                ExitCode.FAILED,
                hint="pip install 'quillgate[parquet]'",
            ) from None
        self.cursor = cursor
        self._path = path
        self._part_path = path.with_name(path.name + ".part")
        self._schema = self._arrow.schema([(column.name, self._kind(column.kind)) for column in COLUMNS])
        self._columns: list[list[Any]] = [[] for _ in COLUMNS]

    def __enter__(self) -> Self:
        try:
            self._writer = self._parquet.ParquetWriter(self._part_path, self._schema)
        except OSError as error:
            raise _cannot_write(self._path, error) from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._write_group()
            self._writer.close()
            if error is None:
                self._part_path.replace(self._path)
        except OSError as failed:
            raise _cannot_write(self._path, failed) from None
        finally:
            self._part_path.unlink(missing_ok=True)

    def add(self, message: ExportLedgerResponse) -> None:
        """Gathers the rows, and writes every hundred thousand."""
        for column, values in zip(COLUMNS, self._columns, strict=True):
            values.extend(map(column.value, message.entries))
        if len(self._columns[0]) >= _ROWS_IN_GROUP:
            try:
                self._write_group()
            except OSError as error:
                raise _cannot_write(self._path, error) from None

    def _write_group(self) -> None:
        if self._columns[0]:
            arrays = [
                self._arrow.array(values, type=field.type)
                for values, field in zip(self._columns, self._schema, strict=True)
            ]
            self._writer.write_table(self._arrow.Table.from_arrays(arrays, schema=self._schema))
            self._columns = [[] for _ in COLUMNS]

    def _kind(self, kind: str) -> Any:
        return self._arrow.timestamp("us", tz="UTC") if kind == "time" else getattr(self._arrow, _ARROW_KINDS[kind])()


def _write_whole(path: Path, data: bytes) -> None:
    """Replaces a small file, so that it is the old or the new one whatever happens."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    part.replace(path)


def _cannot_write(path: Path, error: OSError) -> Failure:
    return Failure(f"cannot write {path}: {error.strerror or error}", ExitCode.FAILED)


FORMATS: Sequence[str] = (*TEXT_FORMATS, "parquet")
