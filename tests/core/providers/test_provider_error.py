"""What statuses and error bodies of providers become, and that none of our secrets passes with them."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from quillgate_core.errors import (
    Overloaded,
    ProviderCredentialRejected,
    ProviderRejected,
    ProviderTimeout,
    ProviderUnavailable,
    QuillgateError,
)
from quillgate_core.providers.provider_error import ProviderErrors, retry_after_s
from quillgate_core.providers.redaction import MAX_CHARACTERS, redact
from quillgate_core.secret import Secret

ERRORS = ProviderErrors("fake", Secret("house-key-42"))
NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
REFUSED = "The provider `fake` refused the request with status 400."


def for_body(body: Any, *, status: int = 400, content_type: str = "application/json") -> QuillgateError:
    """The error for a body, given as bytes or as a value."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return ERRORS.for_status(status, data, content_type=content_type)


@pytest.mark.parametrize(("status", "problem"), [(429, "is over its limit of requests"), (503, "is overloaded")])
def test_stated_waits_are_kept(status: int, problem: str) -> None:
    """Whoever says when to come back is not down but busy, and it is known that the time was the provider's word."""
    failure = ERRORS.for_status(status, b"", retry_after="7")
    assert isinstance(failure, Overloaded)
    assert (failure.metadata, failure.is_stated) == ({"retry_after_s": "7"}, True)
    assert problem in failure.message


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        *[(status, ProviderRejected) for status in (400, 404, 405, 406, 410, 413, 415, 418, 422, 431, 451, 499)],
        *[
            (status, ProviderUnavailable)
            for status in (401, 402, 403, 409, 300, 302, 304, 500, 502, 503, 504, 529, 599)
        ],
        (408, ProviderTimeout),
        (425, Overloaded),
        (429, Overloaded),
    ],
)
def test_every_status_has_its_error(status: int, expected: type[QuillgateError]) -> None:
    """Statuses the caller can act on are refusals; all others say that the provider does not serve us now."""
    failure = for_body({"error": {"message": "their words", "code": "c", "param": "p"}}, status=status)
    assert type(failure) is expected
    assert ("their words" in failure.message) == (expected is ProviderRejected)
    expected_metadata = {
        ProviderRejected: {"provider": "fake", "code": "c", "param": "p"},
        Overloaded: {"retry_after_s": "1"},
    }
    assert failure.metadata == expected_metadata.get(expected, {"provider": "fake"})


@pytest.mark.parametrize(
    ("body", "message", "code", "param"),
    [
        ({"error": {"message": "m", "type": "t", "param": "p", "code": "c"}}, "m", "c", "p"),
        ({"error": {"message": "m", "param": None, "code": None}}, "m", "", ""),
        ({"error": {"message": "m", "code": 400}}, "m", "400", ""),
        ([{"error": {"message": "m", "code": 400, "status": "INVALID_ARGUMENT"}}], "m", "invalid_argument", ""),
        ({"error": "m"}, "m", "", ""),
        ({"error": "m", "code": "c"}, "m", "c", ""),
        ({"object": "error", "message": "m", "type": "BadRequestError", "param": "p", "code": 400}, "m", "400", "p"),
        ({"message": "m"}, "m", "", ""),
        ({"detail": "m"}, "m", "", ""),
        (
            {"detail": [{"loc": ["body", "n", 0], "msg": "m", "input": "prompt"}, {"msg": "k"}]},
            "body.n.0: m; k",
            "",
            "",
        ),
        ({"detail": [{"loc": 5, "msg": None}, 7]}, REFUSED, "", ""),
        ({"error": {"message": {"no": "text"}, "code": [1], "param": 10**5000 // 10**4000}}, REFUSED, "", ""),
        ({"error": {"message": "Provider returned error", "code": 400, "metadata": {"raw": "m"}}}, "m", "", ""),
        (
            {"error": {"message": "x", "metadata": {"raw": '{"error": {"message": "m", "code": "c", "param": "p"}}'}}},
            *("m", "c", "p"),
        ),
        ({"error": {"message": "m", "metadata": {"raw": '{"other": 1}'}}}, "m", "", ""),
        ([], REFUSED, "", ""),
        ({}, REFUSED, "", ""),
        (None, REFUSED, "", ""),
        ("m", "m", "", ""),
        (b"", REFUSED, "", ""),
        (b'{"error": {"message": "cut sh', REFUSED, "", ""),
    ],
)
def test_error_bodies_of_all_shapes_are_read(body: Any, message: str, code: str, param: str) -> None:
    """Message, code and parameter are found wherever a server puts them; without any, our own words stand in."""
    failure = for_body(body)
    assert failure.message == message
    assert failure.metadata == {"provider": "fake", "code": code, "param": param}


@pytest.mark.parametrize(
    ("content_type", "message"), [("text/plain; charset=utf-8", "Bad \ufffd thing"), ("text/html", REFUSED)]
)
def test_plain_text_is_passed_on_and_markup_is_not(content_type: str, message: str) -> None:
    """A plain text says why; a web page says nothing."""
    assert for_body(b"Bad \xff thing", content_type=content_type).message == message


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, {"message": "API key not valid. Please pass a valid API key.", "status": "INVALID_ARGUMENT"}),
        (400, {"message": "m", "code": "invalid_api_key"}),
        (404, {"message": "m", "type": "authentication_error"}),
        (400, {"message": "Please enable billing on your project.", "code": 400, "status": "FAILED_PRECONDITION"}),
        (429, {"message": "You exceeded your current quota.", "code": "insufficient_quota"}),
    ],
)
def test_trouble_with_our_account_is_never_told_in_their_words(status: int, error: dict[str, Any]) -> None:
    """A refused key or a spent quota is ours to repair, whatever status a provider gives it."""
    failure = for_body({"error": error}, status=status)
    assert isinstance(failure, ProviderUnavailable)
    assert failure.message == "The provider `fake` refused this gateway's account."


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ({"code": 400}, ProviderRejected),
        ({"code": "413"}, ProviderRejected),
        ({"code": 401}, ProviderUnavailable),
        ({"code": 408}, ProviderTimeout),
        ({"code": 429}, Overloaded),
        ({"code": 502}, ProviderUnavailable),
        ({"type": "rate_limit_error"}, Overloaded),
        ({"type": "invalid_request_error"}, ProviderRejected),
        ({"type": "BadRequestError"}, ProviderRejected),
        ({"code": "context_length_exceeded"}, ProviderRejected),
        ({"status": "INVALID_ARGUMENT"}, ProviderRejected),
        ({"type": "server_error"}, ProviderUnavailable),
        ({"type": "something_new"}, ProviderUnavailable),
        ("words", ProviderUnavailable),
    ],
)
def test_an_error_without_a_status_is_told_by_its_words(error: Any, expected: type[QuillgateError]) -> None:
    """Inside a 200 or a stream the error's code or type decides who is to blame; in doubt it is the provider."""
    assert type(ERRORS.for_value({"error": error})) is expected


@pytest.mark.parametrize(
    ("details", "header", "seconds"),
    [
        ([{"@type": "type.googleapis.com/google.rpc.Help"}, {"retryDelay": "7s"}], None, "7"),
        ([{"retryDelay": "33.268s"}], None, "33"),
        ([{"retryDelay": "7s"}], "9", "9"),
        ([{"retryDelay": "86400s"}], None, "120"),
        ([{"retryDelay": "soon"}], None, "1"),
        ([{"retryDelay": 7}, None, 5], None, "1"),
        ({"retryDelay": "7s"}, None, "1"),
        (None, None, "1"),
    ],
)
def test_geminis_retry_delay_stands_in_for_the_header(details: Any, header: str | None, seconds: str) -> None:
    """Gemini says when to come back in the body; a header wins, and nonsense counts as a second."""
    error = {"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "m", "details": details}}
    for body in (error, [error]):
        failure = ERRORS.for_status(429, json.dumps(body).encode(), retry_after=header)
        assert failure.metadata == {"retry_after_s": seconds}
    if header is None:
        in_stream = ERRORS.for_value(error)
        assert in_stream is not None and in_stream.metadata == {"retry_after_s": seconds}


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ({"message": "Insufficient Balance", "code": "invalid_request_error"}, ProviderUnavailable),
        ({"message": "Your credit balance is too low.", "type": "invalid_request_error"}, ProviderUnavailable),
        # Google says so of its limits of requests, which pass.
        ({"message": "You exceeded your current quota.", "code": 429, "status": "RESOURCE_EXHAUSTED"}, Overloaded),
        ({"message": "x", "type": "timeout_error"}, ProviderTimeout),
        ({"message": "x", "code": 504, "status": "DEADLINE_EXCEEDED"}, ProviderTimeout),
        ({"message": "x", "code": 429, "metadata": {"raw": '{"error": {"message": "m"}}'}}, Overloaded),
    ],
)
def test_words_tell_what_a_status_does_not(error: Any, expected: type[QuillgateError]) -> None:
    """A spent balance, a time limit, and a status around another provider's words are known for what they are."""
    assert type(ERRORS.for_value({"error": error})) is expected


@pytest.mark.parametrize(
    ("status", "message", "code"),
    [
        (400, "This model's maximum context length is 8192 tokens.", "context_length_exceeded"),
        (400, "prompt is too long: 200001 tokens > 200000 maximum", "context_length_exceeded"),
        (400, "The input token count (1) exceeds the maximum number of tokens allowed.", "context_length_exceeded"),
        (413, "Please reduce the length of the messages.", "context_length_exceeded"),
        (404, "Please reduce the length of the messages.", "c"),
        (404, "The model `m` does not exist.", "model_not_found"),
        (400, "Invalid model: m", "model_not_found"),
        (404, "The API deployment for this resource does not exist.", "model_not_found"),
        (400, "'temperature' is not supported with this model.", "c"),
        (400, "Unsupported value: this model does not support tools.", "c"),
        (400, "Invalid model_kwargs.", "c"),
    ],
)
def test_what_clients_act_on_has_openais_code(status: int, message: str, code: str) -> None:
    """Agents shorten the conversation, and people choose another model, by OpenAI's codes; others stay."""
    assert for_body({"error": {"message": message, "code": "c"}}, status=status).metadata["code"] == code


def test_a_refused_key_of_a_workspace_is_told_as_such() -> None:
    """A workspace can repair its own key; everything else is told as for the gateway's."""
    own = ProviderErrors("fake", Secret("house-key-42"), byok=True)
    for status in (401, 402, 403):
        failure = own.for_status(status, b'{"error": {"message": "house-key-42"}}')
        assert type(failure) is ProviderCredentialRejected
        assert failure.metadata == {"provider": "fake"}
        assert "house-key-42" not in failure.message
    assert type(own.for_status(429, b"{}")) is Overloaded
    assert type(own.for_status(500, b"{}")) is ProviderUnavailable


@pytest.mark.parametrize("value", [{}, {"error": None}, {"error": {}}, {"error": ""}, {"object": "chat.completion"}])
def test_an_answer_without_an_error_has_none(value: dict[str, Any]) -> None:
    """An absent or empty error is none."""
    assert ERRORS.for_value(value) is None


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        *[(None, 1), ("0", 1), ("-5", 1), ("1", 1), ("7", 7), ("2.9", 2), ("120", 120), ("121", 120), ("9" * 400, 120)],
        *[("inf", 120), ("nan", 1), ("soon", 1), ("", 1), ("Mon, 99 Nov 2026 99:99:99 GMT", 1)],
        ("Mon, 23 Nov 2026 12:00:30 GMT", 30),
        ("Mon, 23 Nov 2026 12:00:30 -0000", 30),
        ("Mon, 23 Nov 2026 11:00:00 GMT", 1),
        ("Tue, 24 Nov 2026 12:00:00 GMT", 120),
    ],
)
def test_retry_after_is_read_in_every_form(header: str | None, seconds: int) -> None:
    """Seconds and HTTP dates are read, kept within 1 to 120, and anything else counts as 1."""
    assert retry_after_s(header, now=NOW) == seconds


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("the key house-key-42 is bad", "the key *** is bad"),
        ("Incorrect: sk-proj-abc123DEF456ghi789.", "Incorrect: ***."),
        ("sk-or-v1-0123456789abcdef", "***"),
        ("qg_live_abcDEF123", "***"),
        ("AIzaSyA-1234567890abcdef", "***"),
        ("gsk_abc123def456", "***"),
        ("for org-AbC123xyz on tokens", "for *** on tokens"),
        ("Authorization: Bearer abc.def-ghi", "Authorization: Bearer ***"),
        ("api_key=verysecret and more", "api_key=*** and more"),
        ('"api-key": "verysecret"', '"api-key": "***"'),
        ("at https://user:pass@host/v1", "at https://***@host/v1"),
        ("eyJhbGciOiJIUzI1.eyJzdWIiOiIxMjM0.abc", "***"),
        ("id 0123456789abcdef0123456789abcdef", "id ***"),
        ("line\x00one\x1b[31m", "line one [31m"),
        ("This model's maximum context length is 8192 tokens.", "This model's maximum context length is 8192 tokens."),
        (
            "Invalid 'messages[0].content': see https://host/docs#a",
            "Invalid 'messages[0].content': see https://host/docs#a",
        ),
        ("'top_logprobs' needs 'logprobs', task-specific", "'top_logprobs' needs 'logprobs', task-specific"),
    ],
)
def test_credentials_are_hidden_and_the_rest_is_kept(text: str, safe: str) -> None:
    """Whatever looks like a credential is replaced by stars; ordinary sentences stay as they are."""
    assert redact(text, api_key="house-key-42") == safe


@pytest.mark.parametrize(("length", "cut"), [(499, False), (500, False), (501, True)])
def test_long_texts_are_cut(length: int, cut: bool) -> None:
    """A text over 500 characters is cut and says so."""
    text = redact("é" * length, api_key="")
    assert len(text) == min(length, MAX_CHARACTERS)
    assert text.endswith("…") is cut


def test_a_key_at_the_cut_is_hidden_whole() -> None:
    """Hiding comes before cutting, so that half a key never passes."""
    assert "house" not in redact("x" * 490 + " house-key-42", api_key="house-key-42")


def test_code_and_parameter_are_redacted_too() -> None:
    """Every text of a provider is redacted, and codes and parameters are cut to 100 characters."""
    failure = for_body({"error": {"message": "m", "code": "house-key-42", "param": "p" * 1000}})
    assert failure.metadata["code"] == "***"
    assert len(failure.metadata["param"]) == 100
