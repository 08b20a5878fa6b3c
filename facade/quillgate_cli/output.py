"""Writes answers to standard output: tables for people, one JSON document for scripts.

What a server sends is never trusted: names may hold escape sequences that rewrite the terminal, characters that turn
the reading direction, or markup. People see such characters spelt out; JSON is plain ASCII. Must not call anybody.
"""

import os
import re
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from quillgate_cli.failure import ExitCode, Failure
from quillgate_cli.table import Column, fields_text, table_text
from quillgate_codec.mapping import is_repeated

_FRACTION = re.compile(r"\.[0-9]+(?=Z$)")
_NOT_PLAIN = re.compile(r"[^\n -~]")


class StdoutClosed(Exception):
    """Whoever read our output has gone, as `| head` does; nobody is left to tell anything."""


def clean(text: str) -> str:
    r"""Returns the text with every character that does not show as itself spelt out, such as `\x1b` or `\u202e`."""
    return "".join(ch if ch.isprintable() else ch.encode("unicode_escape").decode("ascii") for ch in text)


def count(value: int) -> str:
    """Returns a number for people, with thousands marked."""
    return f"{value:,}"


def moment(message: Message, field: str, *, absent: str = "never") -> str:
    """Returns a Timestamp field in RFC 3339, to the second, or `absent` when it is not set."""
    return _FRACTION.sub("", _rfc3339(getattr(message, field))) if message.HasField(field) else absent


def print_table(columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> None:
    """Prints rows of plain text under their titles."""
    _print(table_text(columns, [[clean(cell) for cell in row] for row in rows], room=room()))


def print_fields(fields: Mapping[str, str]) -> None:
    """Prints one thing: a line per field, names to the left."""
    _print(fields_text([(name, clean(value)) for name, value in fields.items()], room=room()))


def print_line(text: str = "") -> None:
    """Prints one line, whatever the text holds."""
    write(clean(text) + "\n")


def print_json(value: Any) -> None:
    """Prints one JSON document in ASCII, which no terminal and no locale can misread."""
    text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    write(_NOT_PLAIN.sub(_json_escape, text) + "\n")


def json_value(message: Message) -> dict[str, Any]:
    """Returns the message as JSON values under its field names, every field present: unset ones are null.

    Enums are names. Unlike `json_format`, 64-bit integers stay numbers: none here comes near 2**53. Page tokens are
    left out.
    """
    fields = (field for field in message.DESCRIPTOR.fields if field.name != "next_page_token")
    return {field.name: _field_value(message, field) for field in fields}


def json_line(value: Any) -> str:
    """Returns one JSON document in ASCII as one line."""
    return _NOT_PLAIN.sub(_json_escape, msgspec.json.encode(value).decode()) + "\n"


def room() -> int | None:
    """Returns the width of the terminal; None off a terminal, where lines are never broken."""
    terminal = sys.stdout is not None and sys.stdout.isatty()
    return shutil.get_terminal_size().columns if terminal else None


def can_show(letters: str) -> bool:
    """Tells whether standard output can encode these letters as they are."""
    try:
        letters.encode(getattr(sys.stdout, "encoding", None) or "ascii")
    except UnicodeError:
        return False
    return True


def write(text: str) -> None:
    """Writes to standard output and flushes; raises StdoutClosed or Failure, after which output leads nowhere."""
    try:
        if sys.stdout is None:
            raise Failure("standard output is closed", ExitCode.FAILED)
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        discard_stdout()
        raise StdoutClosed from None
    except OSError as error:
        discard_stdout()
        raise Failure(f"cannot write the answer: {error.strerror}", ExitCode.FAILED) from None


def discard_stdout() -> None:
    """Points standard output at nothing, because the interpreter flushes it once more and would complain."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, sys.stdout.fileno())
    os.close(devnull)


def _print(text: str) -> None:
    write("".join(f"{line.rstrip(' ')}\n" for line in text.split("\n")))


def _field_value(message: Message, field: Any) -> Any:
    value = getattr(message, field.name)
    if is_repeated(field):
        return [_single_value(field, item) for item in value]
    if field.has_presence and not message.HasField(field.name):
        return None
    return _single_value(field, value)


def _single_value(field: Any, value: Any) -> Any:
    if isinstance(value, Timestamp):
        return _rfc3339(value)
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return value if known is None else known.name
    return value if field.message_type is None else json_value(value)


def _rfc3339(timestamp: Timestamp) -> str:
    try:
        return timestamp.ToJsonString()
    except ValueError:
        return f"{timestamp.seconds} s after 1970"


def _json_escape(match: re.Match[str]) -> str:
    units = match[0].encode("utf-16-be")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))
