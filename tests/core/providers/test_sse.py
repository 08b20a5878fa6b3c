"""The SSE parser: the same events however the stream is cut, and never more memory than its limits."""

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quillgate_core.providers.sse import SseLimitError, SseParser

FRAGMENTS = st.sampled_from(
    [
        *[
            b"data: ",
            b"data:",
            b"data",
            b":",
            b" ",
            b"\n",
            b"\r",
            b"\r\n",
            b"\n\n",
            b"event: x\n",
            b": ping\n\n",
            b"id",
        ],
        *[b"\xef\xbb\xbf", "é€😀".encode(), b'{"a":1}', b'data: {"b":2}\n\n', b"data: [DONE]\n\n", b"x" * 30, b"\0"],
    ]
)
STREAMS = st.lists(FRAGMENTS, max_size=30).map(b"".join)


@st.composite
def cut_streams(draw: st.DrawFn) -> list[bytes]:
    """A stream in pieces, the pieces possibly empty."""
    stream = draw(STREAMS)
    cuts = sorted(draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    return [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]


def parse(pieces: Iterable[bytes], *, max_line: int = 2**20, max_event: int = 2**22) -> tuple[list[bytes], bool]:
    """All events of a stream, and whether it went over a limit."""
    parser = SseParser(max_line, max_event)
    events: list[bytes] = []
    try:
        for piece in pieces:
            events += parser.feed(piece)
        events += parser.close()
    except SseLimitError as error:
        return events + error.events, True
    return events, False


def reference(stream: bytes) -> list[bytes]:
    """The WHATWG algorithm as written, on the whole stream at once, without events that have no data."""
    events, data = [], b""
    stream = stream.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    for line in stream.split(b"\n")[:-1]:
        name, _, value = line.partition(b":")
        if not line:
            if data.removesuffix(b"\n"):
                events.append(data.removesuffix(b"\n"))
            data = b""
        elif name == b"data":
            data += value.removeprefix(b" ") + b"\n"
    return events


@given(cut_streams())
def test_any_cut_gives_the_events_of_the_whole_stream(pieces: list[bytes]) -> None:
    """How the network cuts a stream never changes its events."""
    assert parse(pieces) == parse([b"".join(pieces)])


@given(cut_streams())
def test_events_are_those_of_the_standard(pieces: list[bytes]) -> None:
    """The events before the end of the stream are the ones that the standard's algorithm gives."""
    parser = SseParser(2**20, 2**22)
    assert [event for piece in pieces for event in parser.feed(piece)] == reference(b"".join(pieces))


@given(cut_streams(), st.integers(1, 40), st.integers(1, 60))
def test_limits_do_not_depend_on_the_cut(pieces: list[bytes], max_line: int, max_event: int) -> None:
    """A stream that goes over a limit does so after the same events, however it is cut."""
    limits = {"max_line": max_line, "max_event": max_event}
    assert parse(pieces, **limits) == parse([b"".join(pieces)], **limits)


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: a\n\ndata: b\n\n", [b"a", b"b"]),
        (b"data: a\r\n\r\ndata: b\r\rdata: c\n\n", [b"a", b"b", b"c"]),
        (b"data: a\ndata: b\n\n", [b"a\nb"]),
        (b"data: a\r\ndata: b\r\n\r\n", [b"a\nb"]),
        (b"data:a\n\ndata:  b\n\n", [b"a", b" b"]),
        (b": comment\n\ndata: a\n: comment\n\n", [b"a"]),
        (b"event: message\nid: 7\nretry: 1\ndata: a\n\n", [b"a"]),
        (b"\xef\xbb\xbfdata: a\n\n", [b"a"]),
        (b"data: a\n\n\xef\xbb\xbfdata: b\n\n", [b"a"]),
        (b"data\n\ndata:\n\ndata: \n\n", []),
        (b"data\ndata\n\n", [b"\n"]),
        (b"<html>\n<body>no stream</body>\n\n", []),
        (b"", []),
    ],
)
def test_reads_the_forms_of_the_standard(stream: bytes, events: list[bytes]) -> None:
    """Line ends, several data lines, comments, other fields and a byte order mark are read as the standard says."""
    assert parse([stream]) == (events, False)
    assert parse([bytes([byte]) for byte in stream]) == (events, False)


@pytest.mark.parametrize(
    ("rest", "events"),
    [
        (b'data: {"a":1}', [b'{"a":1}']),
        (b'data: {"a":1}\n', [b'{"a":1}']),
        (b"data: [DONE]", [b"[DONE]"]),
        (b'data: {"a":', []),
        (b'data: {"a":"\xe2\x82', []),
        (b": comment", []),
        (b"data", []),
    ],
)
def test_an_event_without_its_blank_line_counts_only_if_whole(rest: bytes, events: list[bytes]) -> None:
    """At the end of the stream a last event counts without its blank line if it is complete JSON or `[DONE]`."""
    assert parse([b"data: first\n\n" + rest]) == ([b"first", *events], False)


@pytest.mark.parametrize(("size", "over"), [(99, False), (100, False), (101, True)])
def test_the_line_limit_is_exact(size: int, over: bool) -> None:
    """A line at the limit passes and one byte more does not, ended or not."""
    line = b"data: " + b"x" * (size - 6)
    parser = SseParser(100, 1000)
    if over:
        with pytest.raises(SseLimitError):
            parser.feed(line)
    else:
        assert parser.feed(line) == []
    assert parse([b"data: a\n\n", line + b"\n\n"], max_line=100)[1] is over


@pytest.mark.parametrize(("lines", "over"), [(9, False), (10, False), (11, True)])
def test_the_event_limit_is_exact(lines: int, over: bool) -> None:
    """An event's data, a line feed after each line included, may reach the limit and not pass it."""
    stream = b"data: first\n\n" + b"data: 123456789\n" * lines + b"\n"
    events, was_over = parse([stream], max_event=100)
    assert was_over is over
    assert events[0] == b"first"


def test_an_endless_line_is_refused_as_soon_as_it_passes_the_limit() -> None:
    """A line without an end is not gathered beyond the limit and one read."""
    parser = SseParser(1000, 10_000)
    with pytest.raises(SseLimitError):
        for _ in range(3):
            parser.feed(b"x" * 400)


def test_comments_without_end_use_no_memory_and_pass() -> None:
    """Keep-alive comments are swallowed without ever reaching a limit."""
    assert parse([b": OPENROUTER PROCESSING\n\n"] * 1000, max_line=100, max_event=100) == ([], False)


def test_lines_that_are_no_field_are_kept_apart() -> None:
    """Bare JSON between or after events is no event, and is there for who wants to know why a stream ended."""
    parser = SseParser(1000, 1000)
    assert parser.feed(b'data: a\n\n: comment\nevent: x\nid\nretry: 1\n\n{"error":\n') == [b"a"]
    assert parser.feed(b"data: b\n\n") == [b"b"]
    assert parser.close() == []
    assert parser.stray == b'{"error":\n'
    parser.feed(b"  5}")
    parser.close()
    assert parser.stray == b'{"error":\n  5}\n'


def test_lines_that_are_no_field_are_kept_up_to_a_limit() -> None:
    """A server that writes nonsense without end fills no memory."""
    parser = SseParser(1000, 1000)
    for _ in range(1000):
        parser.feed(b"nonsense " * 10 + b"\n")
    assert 10_000 < len(parser.stray) <= 16 * 1024
