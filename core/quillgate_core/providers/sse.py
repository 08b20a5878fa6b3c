"""An incremental parser of server-sent events (WHATWG HTML, section 9.2.6). Pure: bytes in, event data out.

It works on bytes, so characters cut by the network need no care. Only `data` matters to chat completions: the fields
`event`, `id` and `retry`, comments, and events without data are swallowed. Memory is bounded by one line, one event and
one read. Lines that are no field of the format are kept, up to a limit, as `stray`: that is how some servers tell what
made them end a stream. It must not know what the data means.
"""

from quillgate_codec import JsonError, load_json

_BOM = b"\xef\xbb\xbf"
_PREFIX = b"data: "
_END = b"\n\n"
_BETWEEN = _END + _PREFIX
_FIELDS = frozenset({b"", b"event", b"id", b"retry"})  # an empty name is a comment
_MAX_STRAY_BYTES = 16 * 1024


class SseLimitError(Exception):
    """A line or an event is longer than its limit; `events` are those that were complete before it."""

    def __init__(self, message: str, events: list[bytes]) -> None:
        super().__init__(message)
        self.events = events


class SseParser:
    """Turns the reads of one stream into the data of its events, the same however the stream is cut."""

    def __init__(self, max_line: int, max_event: int) -> None:
        self._max_line = max_line
        self._max_event = max_event
        self._max_whole = min(max_line, max_event)
        self._line = bytearray()  # the line that has not ended yet
        self._event = bytearray()  # the data of the event that has not ended yet, each line with its line feed
        self._at_start = True  # a byte order mark may still come
        self._after_cr = False  # a line feed would belong to the carriage return before
        self._stray = bytearray()

    @property
    def stray(self) -> bytes:
        """The lines so far that are no field, each with a line feed; what passes 16 KiB is dropped."""
        return bytes(self._stray)

    def feed(self, data: bytes) -> list[bytes]:
        """Returns the data of the events that this read completes, in order; raises SseLimitError."""
        if data.startswith(_PREFIX) and data.endswith(_END) and b"\r" not in data and self._is_between_events():
            return self._feed_whole_events(data)
        return self._feed_lines(data)

    def close(self) -> list[bytes]:
        """Returns the data of a last event that lacks its blank line, if it is whole: `[DONE]` or JSON."""
        events: list[bytes] = []
        if self._line:
            self._end_line(bytes(self._line), events)
            self._line.clear()
        data = bytes(self._event[:-1])
        self._event.clear()
        return [*events, data] if data and _is_whole(data) else events

    def _is_between_events(self) -> bool:
        return not (self._line or self._event or self._after_cr)

    def _feed_whole_events(self, data: bytes) -> list[bytes]:
        """The usual read, whole events of one line each, split without looking at every line."""
        self._at_start = False
        events = data[len(_PREFIX) : -len(_END)].split(_BETWEEN)
        if data.count(b"\n") != 2 * len(events) or b"" in events or len(data) > self._max_whole:
            return self._feed_lines(data)
        return events

    def _feed_lines(self, data: bytes) -> list[bytes]:
        if self._after_cr and data:
            self._after_cr = False
            data = data.removeprefix(b"\n")
        if b"\r" in data:
            self._after_cr = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, rest = data.split(b"\n")
        events: list[bytes] = []
        if lines:
            self._line += lines[0]
            lines[0] = bytes(self._line)
            self._line.clear()
        for line in lines:
            self._end_line(line, events)
        self._line += rest
        self._check_line(len(self._line), events)
        return events

    def _end_line(self, line: bytes, events: list[bytes]) -> None:
        self._check_line(len(line), events)
        if self._at_start:
            self._at_start = False
            line = line.removeprefix(_BOM)
        if not line:
            if len(self._event) > 1:
                events.append(bytes(self._event[:-1]))
            self._event.clear()
            return
        name, _, value = line.partition(b":")
        if name == b"data":
            self._event += value.removeprefix(b" ") + b"\n"
            self._check_event(len(self._event), events)
        elif name not in _FIELDS and len(self._stray) + len(line) < _MAX_STRAY_BYTES:
            self._stray += line + b"\n"

    def _check_line(self, size: int, events: list[bytes]) -> None:
        if size > self._max_line:
            raise SseLimitError(f"a line has more than {self._max_line} bytes", events)

    def _check_event(self, size: int, events: list[bytes]) -> None:
        """`size` counts a line feed after each line of data."""
        if size > self._max_event:
            raise SseLimitError(f"an event has more than {self._max_event} bytes", events)


def _is_whole(data: bytes) -> bool:
    if data == b"[DONE]":
        return True
    try:
        load_json(data)
    except JsonError:
        return False
    return True
