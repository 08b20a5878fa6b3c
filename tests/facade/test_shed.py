"""Which requests can be turned away unparsed, and what they are told."""

import json

import pytest

from quillgate_facade.shed import MAX_SKIPPED_BYTES, Refusals, is_probe, overloaded, rest_of

POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize(
    ("data", "rest"),
    [
        (POST + b"Content-Length: 5\r\n\r\nhello", 0),
        (POST + b"content-length:5\r\n\r\nhello", 0),
        (POST + b"Content-Length: 5\r\nConnection: keep-alive\r\n\r\nhel", 2),
        (POST + b"Content-Length: 400000\r\n\r\n", 400_000),
        (POST + b"Content-Length: 0\r\n\r\n", 0),
        (POST + b"Content-Length: %d\r\n\r\n" % MAX_SKIPPED_BYTES, MAX_SKIPPED_BYTES),
    ],
    ids=range(6),
)
def test_ordinary_requests(data: bytes, rest: int) -> None:
    """A POST with a length is understood, and what is still to come of it."""
    assert rest_of(data) == rest


@pytest.mark.parametrize(
    "data",
    [
        b"POST /v1/chat/comp",
        POST + b"Content-Le",
        POST + b"\r\n",
        POST + b"Content-Length: 5\r\n\r\nhello!",
        POST + b"Content-Length: %d\r\n\r\n" % (MAX_SKIPPED_BYTES + 1),
        POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
        POST + b"Content-Length: 5\r\nContent-Length : 6\r\n\r\nhello",
        POST + b"Content-Length: +5\r\n\r\nhello",
        POST + b"Content-Length:  5\r\n\r\nhello",
        POST + b"Content-Length: 5 \r\n\r\nhello",
        POST + b"X-Content-Length: 5\r\n\r\nhello",
        POST + b"X: y\nContent-Length: 5\r\n\r\nhello",
        POST + b"Content-Length: 5\r\n and more\r\n\r\nhello",
        POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nhello",
        POST + b"Content-Length: 5\r\nExpect: 100-continue\r\n\r\n",
        POST + b"Content-Length: 5\r\nConnection: close\r\n\r\nhello",
        POST + b"Content-Length: 5\r\nOrigin: https://app.example\r\n\r\nhello",
        POST + b"Content-Length: 5\r\nUpgrade: h2c\r\n\r\nhello",
        POST.replace(b"1.1", b"1.0") + b"Content-Length: 5\r\n\r\nhello",
        POST.replace(b"POST", b"HEAD") + b"\r\n",
        POST.replace(b"POST", b"GET") + b"\r\n",
        b"\r\n" + POST + b"Content-Length: 0\r\n\r\n",
    ],
    ids=range(23),
)
def test_what_only_a_parser_understands(data: bytes) -> None:
    """Anything that a parser might read in another way is left to it, so that both agree where a request ends."""
    assert rest_of(data) is None


@pytest.mark.parametrize("probe", [b"GET /healthz HTTP/1.1\r\n", b"GET /readyz HTTP/1.1\r\n", b"HEAD /readyz HTTP/1.1"])
def test_probes(probe: bytes) -> None:
    """Load balancers' questions are told from others."""
    assert is_probe(probe)
    assert not is_probe(b"GET /v1/models HTTP/1.1\r\n")


def test_refusals() -> None:
    """A refusal is a whole answer: 503, when to come back, an id of its own, and OpenAI's four members."""
    refusals = Refusals()
    answers = [refusals.next().partition(b"\r\n\r\n") for _ in range(100)]
    heads = [dict(line.split(": ", 1) for line in head.decode().splitlines()[1:]) for head, _, _ in answers]
    assert {head.splitlines()[0] for head, _, _ in answers} == {b"HTTP/1.1 503 Service Unavailable"}
    assert {head["retry-after"] for head in heads} == {"1", "2", "3"}
    ids = {head["x-request-id"] for head in heads}
    assert len(ids) == 100
    assert all(one.startswith("req_") and len(one) == 36 for one in ids)
    for head, (_, _, body) in zip(heads, answers, strict=True):
        assert int(head["content-length"]) == len(body)
        assert body == overloaded().to_json()
    assert json.loads(answers[0][2])["error"] == {
        "message": "The server is at its capacity. Please retry shortly.",
        "type": "server_error",
        "param": None,
        "code": None,
    }


def test_marks_count_once() -> None:
    """A connection that is noted for a refusal is refused once."""
    refusals = Refusals()
    refusals.mark("a")
    assert [refusals.unmark("b"), refusals.unmark("a"), refusals.unmark("a")] == [False, True, False]
