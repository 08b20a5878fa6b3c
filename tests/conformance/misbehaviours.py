"""The ways in which a server can misbehave, made from any vendor's good answers."""

import gzip
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from conformance.vendor import Content, Spent, Vendor
from conformance.wire_changes import changed_body, everywhere, good_body, headers_of, usage_twice
from fakes.scripted_upstream import BodyStep, ScriptedAnswer, Step

from quillgate_core.providers.provider_limits import ProviderLimits

WORDS: Final = ("Alpha", " Zürich", " Omega")
CONTENT: Final = Content(words=WORDS)
TEXT: Final = "".join(WORDS)
SHORT: Final = ProviderLimits(connect_s=0.3, first_byte_s=0.15, stall_s=0.1, total_s=0.25, error_body_s=0.1)
SMALL: Final = ProviderLimits(response_bytes=300_000)
MIB: Final = 1024**2


@dataclass(frozen=True)
class Wire:
    """What goes over the connection, head and all."""

    steps: Sequence[BodyStep]


Answer = ScriptedAnswer | Wire | None
"""None: the misbehaviour is none of an answer of this form, whole or streamed."""


@dataclass(frozen=True)
class Misbehaviour:
    """One way to misbehave, and what must come of it: `fails` is one of our errors, `answers` the whole text."""

    name: str
    expected: Literal["fails", "answers", "either"]
    make: Callable[[Vendor, bool], Answer]
    limits: ProviderLimits = field(default_factory=ProviderLimits)


def _plain(*steps: BodyStep, status: int = 200, headers: Mapping[str, str] | None = None) -> Callable[..., Answer]:
    """Always the same, with the vendor's own headers where none are given."""
    return lambda vendor, stream: ScriptedAnswer(status, headers or headers_of(vendor, stream=stream), steps)


def _body(change: Callable[[bytes], bytes], **more_headers: str) -> Callable[..., Answer]:
    """A good answer with other bytes."""

    def make(vendor: Vendor, stream: bool) -> Answer:
        headers = {**headers_of(vendor, stream=stream), **{n.replace("_", "-"): v for n, v in more_headers.items()}}
        return ScriptedAnswer(200, headers, [change(good_body(vendor, CONTENT, stream=stream))])

    return make


def _frames(change: Callable[[list[bytes]], Sequence[BodyStep]]) -> Callable[..., Answer]:
    """A good stream with other frames."""
    return lambda vendor, stream: vendor.stream(change(vendor.frames(CONTENT))) if stream else None


def _json(change: Callable[[Any], Any], content: Content = CONTENT) -> Callable[..., Answer]:
    """A good answer with every JSON value changed."""

    def make(vendor: Vendor, stream: bool) -> Answer:
        headers = headers_of(vendor, stream=stream)
        return ScriptedAnswer(200, headers, [changed_body(vendor, content, change, stream=stream)])

    return make


def _spent(spent: Spent | None) -> Callable[..., Answer]:
    """A good answer with this usage."""
    content = Content(words=WORDS, spent=spent)
    return lambda vendor, stream: vendor.stream(vendor.frames(content)) if stream else vendor.answer(content)


def _value(json_text: bytes) -> Callable[..., Answer]:
    """An answer that is JSON, and no answer."""

    def make(vendor: Vendor, stream: bool) -> Answer:
        steps = [b"data: " + json_text + b"\n\n"] if stream else [json_text]
        return ScriptedAnswer(200, headers_of(vendor, stream=stream), steps)

    return make


def _wire(
    head: bytes, body: Callable[[bytes], Sequence[BodyStep]] = lambda body: [body], *, length: int | None = 0
) -> Callable[..., Answer]:
    """A good answer with a head of its own; `length` is added to the body's in content-length, None leaves it out."""

    def make(vendor: Vendor, stream: bool) -> Answer:
        good = good_body(vendor, CONTENT, stream=stream)
        lines = [f"{name}: {value}".encode() for name, value in headers_of(vendor, stream=stream).items()]
        if length is not None:
            lines.append(b"content-length: %d" % (len(good) + length))
        return Wire([head + b"\r\n".join([*lines, b"", b""]), *body(good)])

    return make


def _unknown(node: Any) -> Any:
    return {**node, "x_unknown": {"a": [1, None, {"b": 2.5}]}, "zzz": None} if isinstance(node, dict) else node


def _nested(depth: int) -> Callable[..., Answer]:
    """An unknown member in every object that nests so deep."""
    nest = b'{"x_deep":' + b"[" * depth + b"]" * depth + b","
    return _body(lambda body: body.replace(b"{", nest))


def _sse_body(vendor: Vendor, stream: bool) -> bytes:
    return good_body(vendor, CONTENT, stream=True)


def _bomb() -> bytes:
    packer = zlib.compressobj(9, wbits=31)
    return b"".join([*(packer.compress(b" " * MIB) for _ in range(64)), packer.flush()])


def _gap(node: Any) -> Any:
    if isinstance(node, dict) and type(node.get("index")) is int:
        return {**node, "index": node["index"] * 7 + 3}
    return node


OK: Final = b"HTTP/1.1 200 OK\r\n"
EARLY: Final = b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"
HTML: Final = {"content-type": "text/html; charset=utf-8"}
PAGE: Final = b"<!doctype html><html><body>Just a moment...</body></html>"

MISBEHAVIOURS: Final = (
    Misbehaviour("empty body", "fails", _plain()),
    Misbehaviour("web page with 200", "fails", _plain(PAGE, headers=HTML)),
    Misbehaviour("web page with 502", "fails", _plain(PAGE, status=502, headers=HTML)),
    Misbehaviour("plain text", "fails", _plain(b"upstream connect error", headers={"content-type": "text/plain"})),
    Misbehaviour("no content-type", "fails", _plain(b"\x00\x01\x02", headers={"content-type": ""})),
    Misbehaviour("204", "fails", lambda vendor, stream: ScriptedAnswer(204)),
    Misbehaviour("304", "fails", lambda vendor, stream: ScriptedAnswer(304)),
    Misbehaviour("302", "fails", _plain(status=302, headers={"location": "/v1/elsewhere"})),
    Misbehaviour("307", "fails", _plain(status=307, headers={"location": "/v1/elsewhere"})),
    Misbehaviour("status 599", "fails", _plain(b"{}", status=599)),
    Misbehaviour("cut JSON", "fails", _body(lambda body: body[: len(body) // 3])),
    Misbehaviour("JSON array", "fails", _value(b"[1]")),
    Misbehaviour("JSON number", "fails", _value(b"5")),
    Misbehaviour("JSON null", "fails", _value(b"null")),
    Misbehaviour("JSON text", "fails", _value(b'"hello"')),
    Misbehaviour("JSON empty object", "fails", _value(b"{}")),
    Misbehaviour("JSON false", "fails", _value(b"false")),
    Misbehaviour("JSON NaN", "fails", _value(b"NaN")),
    Misbehaviour("half a character", "either", _body(lambda body: body.replace("ü".encode(), b"\xc3"))),
    Misbehaviour("bytes that are no UTF-8", "either", _body(lambda body: body.replace(b"Alpha", b"\xff\xfe"))),
    Misbehaviour("NUL bytes", "either", _body(lambda body: body.replace(b"Alpha", b"Al\x00pha"))),
    Misbehaviour("NUL escapes", "either", _body(lambda body: body.replace(b"Alpha", b"Al\\u0000pha"))),
    Misbehaviour("lone surrogates", "either", _body(lambda body: body.replace(b"Alpha", b"Al\\ud800pha"))),
    Misbehaviour("byte order mark", "either", _body(lambda body: b"\xef\xbb\xbf" + body)),
    Misbehaviour("CRLF", "answers", _frames(lambda frames: [frame.replace(b"\n", b"\r\n") for frame in frames])),
    Misbehaviour("CR", "answers", _frames(lambda frames: [frame.replace(b"\n", b"\r") for frame in frames])),
    Misbehaviour("no space after the colon", "answers", _frames(lambda f: [x.replace(b"data: ", b"data:") for x in f])),
    Misbehaviour("comments only", "fails", _frames(lambda frames: [b": still here\n\n"] * 5)),
    Misbehaviour("comments between", "answers", _frames(lambda f: [x for y in f for x in (b": processing\n\n", y)])),
    Misbehaviour("events without data", "answers", _frames(lambda f: [x for y in f for x in (b"event: x\n\n", y)])),
    Misbehaviour("retry and id fields", "answers", _frames(lambda f: [b"retry: 9\nid: 4\n\n", *f])),
    Misbehaviour("line of 8 MiB", "fails", _frames(lambda f: [f[0], b"data: ", *[b"x" * MIB] * 8, Step.HANG])),
    Misbehaviour("event of 5 MiB", "fails", _frames(lambda f: [f[0], *[b"data: " + b"x" * 1018 + b"\n"] * 5200])),
    Misbehaviour("endless white space", "fails", _plain(*[b" \n" * 8192] * 40, Step.HANG), SMALL),
    Misbehaviour("endless comments", "fails", _frames(lambda f: [*[b": x\n\n" * 8192] * 40, Step.HANG]), SMALL),
    Misbehaviour("trickling comments", "fails", _frames(lambda f: [b": x\n\n", 0.02] * 400), SHORT),
    Misbehaviour("trickling white space", "fails", _plain(*[b" ", 0.02] * 400), SHORT),
    Misbehaviour("stream as text/plain", "either", _body(lambda body: body, content_type="text/plain")),
    Misbehaviour("stream as JSON", "either", _body(lambda body: body, content_type="application/json")),
    Misbehaviour("JSON as stream", "either", _body(lambda body: body, content_type="text/event-stream")),
    Misbehaviour("stream where JSON is due", "fails", lambda v, s: None if s else v.stream(v.frames(CONTENT))),
    Misbehaviour("JSON where a stream is due", "either", lambda v, s: v.answer(CONTENT) if s else None),
    Misbehaviour("gzip unasked", "answers", _body(gzip.compress, content_encoding="gzip")),
    Misbehaviour("gzip in name only", "fails", _body(lambda body: body, content_encoding="gzip")),
    Misbehaviour("gzip bomb", "fails", _body(lambda body: _bomb(), content_encoding="gzip"), SMALL),
    Misbehaviour("length too long", "either", _wire(OK, length=100)),
    Misbehaviour("length too long, open", "either", _wire(OK, lambda b: [b, Step.HANG], length=100), SHORT),
    Misbehaviour("length too short", "either", _wire(OK, length=-20)),
    Misbehaviour("length negative", "fails", _wire(OK + b"content-length: -5\r\n", length=None)),
    Misbehaviour("length twice", "fails", _wire(OK + b"content-length: 5\r\n")),
    Misbehaviour("bad chunk sizes", "fails", _wire(OK + b"transfer-encoding: chunked\r\n", lambda b: [b], length=None)),
    Misbehaviour("HTTP 1.0 without length", "answers", _wire(b"HTTP/1.0 200 OK\r\n", length=None)),
    Misbehaviour("no HTTP", "fails", lambda vendor, stream: Wire([b"SSH-2.0-OpenSSH_9.6\r\n\r\n"])),
    Misbehaviour(
        "informational answer first", "answers", _wire(b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" + OK)
    ),
    Misbehaviour("huge header", "fails", _wire(OK + b"x-long: " + b"x" * 200_000 + b"\r\n")),
    Misbehaviour("many headers", "either", _wire(OK + b"x-many: 1\r\n" * 5000)),
    Misbehaviour("endless head", "fails", lambda v, s: Wire([OK, *[b"x-more: 1\r\n", 0.02] * 400]), SHORT),
    Misbehaviour("reset before the head", "fails", lambda v, s: ScriptedAnswer(before=[Step.RESET])),
    Misbehaviour("closed before the head", "fails", lambda v, s: ScriptedAnswer(before=[Step.CLOSE])),
    Misbehaviour("reset after the head", "fails", _plain(0.03, Step.RESET)),
    Misbehaviour("closed within a frame", "fails", _frames(lambda f: [*f[:-2], f[-2][:9], 0.03, Step.CLOSE])),
    Misbehaviour("silent before the head", "fails", lambda v, s: ScriptedAnswer(before=[Step.HANG]), SHORT),
    Misbehaviour("silent after the head", "fails", _plain(Step.HANG), SHORT),
    Misbehaviour("silent within the stream", "fails", _frames(lambda frames: [frames[0], Step.HANG]), SHORT),
    Misbehaviour("silent refusal", "fails", _plain(b'{"err', Step.HANG, status=500), SHORT),
    Misbehaviour("usage negative", "answers", _spent(Spent(-5, 0, -7))),
    Misbehaviour("usage of a billion", "answers", _spent(Spent(10**9, 0, 10**9))),
    Misbehaviour("usage beyond integers", "answers", _spent(Spent(10**30, 0, 10**30))),
    Misbehaviour("more cached than prompt", "answers", _spent(Spent(5, 50, 5))),
    Misbehaviour("usage missing", "answers", _spent(None)),
    Misbehaviour("usage of zeros", "answers", _spent(Spent(0, 0, 0))),
    Misbehaviour(
        "usage twice",
        "answers",
        lambda v, s: v.stream([usage_twice(v, WORDS, Spent(10, 0, 5), Spent(20, 0, 9))]) if s else None,
    ),
    Misbehaviour("unknown members everywhere", "answers", _json(everywhere(_unknown))),
    Misbehaviour("null for every list", "either", _json(everywhere(lambda x: None if isinstance(x, list) else x))),
    Misbehaviour("null for every number", "either", _json(everywhere(lambda x: None if type(x) is int else x))),
    Misbehaviour("texts for every number", "either", _json(everywhere(lambda x: str(x) if type(x) is int else x))),
    Misbehaviour("fractions for every number", "either", _json(everywhere(lambda x: x + 0.5 if type(x) is int else x))),
    Misbehaviour("lists for every object", "either", _json(everywhere(lambda x: [x] if isinstance(x, dict) else x))),
    Misbehaviour("empty lists", "either", _json(everywhere(lambda x: [] if isinstance(x, list) else x))),
    Misbehaviour("empty objects in lists", "either", _json(everywhere(lambda x: [{}] if isinstance(x, list) else x))),
    Misbehaviour("lists of nulls", "either", _json(everywhere(lambda x: [None] if isinstance(x, list) else x))),
    Misbehaviour("the end twice", "answers", _frames(lambda frames: [*frames, frames[-1]])),
    Misbehaviour("every frame twice", "either", _frames(lambda f: [x for y in f for x in (y, y)])),
    Misbehaviour("data after the end", "either", _frames(lambda frames: [*frames, *frames])),
    Misbehaviour("junk after the end", "either", _frames(lambda frames: [*frames, b"data: {{{\n\n"])),
    Misbehaviour("gaps in indexes", "either", _json(everywhere(_gap))),
    Misbehaviour("1,000 levels deep", "either", _nested(1000)),
    Misbehaviour("100,000 levels deep", "either", _nested(100_000)),
)
