"""What a provider's refusal means: an HTTP status, or an error object inside a 200 or a stream, as one of our errors.

Pure. Only what the caller can act on is passed on in the provider's words, redacted; what concerns the provider itself
or our account with it (401, 402, 403, its quota, its key) gets our words. Servers write errors in many shapes:

    {"error": {"message", "type", "param", "code"}}   OpenAI and most others; `code` may be an integer
    {"error": {"code": 400, "status", "message", "details": [{"retryDelay": "7s"}]}}   Gemini, in a list or not
    {"error": "text"}  {"detail": ...}  {"message": ...}  {"object": "error", ...}  text/plain
"""

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

from quillgate_codec import JsonError, load_json
from quillgate_core.errors import (
    Overloaded,
    ProviderCredentialRejected,
    ProviderRejected,
    ProviderTimeout,
    ProviderUnavailable,
    QuillgateError,
)
from quillgate_core.providers.redaction import MAX_CHARACTERS, redact
from quillgate_core.secret import Secret

MAX_RETRY_AFTER_S: Final = 120
MAX_CODE_CHARACTERS: Final = 100

_ACCOUNT_STATUSES: Final = frozenset({401, 402, 403})
_ACCOUNT_WORDS: Final = frozenset(
    {"invalid_api_key", "authentication_error", "permission_error", "permission_denied", "unauthenticated"}
    | {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "account_deactivated"}
    | {"billing_error"}
    | {"failed_precondition"}  # Gemini: billing is not enabled where our account is
)
_RATE_WORDS: Final = frozenset({"rate_limit_exceeded", "rate_limit_error", "ratelimiterror", "resource_exhausted"})
_CALLER_WORDS: Final = frozenset(
    {"invalid_request_error", "context_length_exceeded", "string_above_max_length", "invalid_prompt", "badrequesterror"}
    | {"invalid_argument", "invalid_value", "content_filter", "content_policy_violation", "model_not_found"}
    | {"unsupported_parameter", "unsupported_value", "not_found_error", "request_too_large"}
)
_SIZE_STATUSES: Final = frozenset({400, 413, 422})
_MODEL_STATUSES: Final = frozenset({400, 404, 422})
_ACCOUNT_TEXT: Final = re.compile(
    r"api key|insufficient (balance|credit|fund|quota)|credit balance|usage limits",
    re.IGNORECASE,
)
_TIMEOUT_WORDS: Final = frozenset({"timeout", "timeout_error", "request_timeout", "deadline_exceeded"})
_CONTEXT_WORDS: Final = re.compile(
    r"context.{0,20}(length|window|limit|size)|prompt is too long|input is too long|too many (input |prompt )?tokens"
    r"|input token count .{0,40}exceeds|maximum .{0,20}(prompt|input) length|reduce the length",
    re.IGNORECASE,
)
_MODEL_WORDS: Final = re.compile(
    r"(model|deployment).{0,200}(not found|not exist|not a valid)"
    r"|(invalid|unknown|unsupported|no such) model\b|^model: |no endpoints found",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class ErrorReport:
    """What the provider said of a failure, as far as it could be read; nothing here is redacted yet."""

    message: str = ""
    kind: str = ""
    code: str = ""
    param: str = ""
    status: str = ""
    """The code of an error that wraps the one told here."""
    retry_after: str = ""
    """When to come back, as the header `Retry-After` has it."""


class ProviderErrors:
    """Makes the errors of one provider, so that each names it and none holds its key.

    `byok` says that the key is a workspace's own: then a refusal of the account is told as such, because the workspace
    can do something about it.
    """

    def __init__(self, provider: str, api_key: Secret | None, *, byok: bool = False) -> None:
        self._provider = provider
        self._api_key = api_key
        self._byok = byok

    def for_status(
        self, status: int, body: bytes, *, content_type: str = "", retry_after: str | None = None
    ) -> QuillgateError:
        """Returns the error for a response that is no success; `body` may be cut short."""
        return self._for(status, read_report(body, content_type), retry_after)

    def for_value(self, value: dict[str, Any]) -> QuillgateError | None:
        """Returns the error that a decoded answer or chunk is in truth, or None when it is none.

        The status is told by the error's `code` if it is a number, else by the words that are known to blame the
        request; an error that blames nobody is the provider's.
        """
        if not value.get("error") and value.get("object") != "error":
            return None
        report = _report_of(value)
        return self._for(_status_of(report), report, None)

    def unavailable(self, problem: str) -> ProviderUnavailable:
        """Returns the error for a provider that `problem`, such as `cut the answer short`."""
        return ProviderUnavailable(f"The provider `{self._provider}` {problem}.", provider=self._provider)

    def timeout(self, problem: str) -> ProviderTimeout:
        """Returns the error for a provider that `problem`, such as `did not answer in time`."""
        return ProviderTimeout(f"The provider `{self._provider}` {problem}.", provider=self._provider)

    def _for(self, status: int, report: ErrorReport, retry_after: str | None) -> QuillgateError:
        if status in _ACCOUNT_STATUSES or _is_about_account(report):
            return self._account_refused()
        if status == 408 or not _TIMEOUT_WORDS.isdisjoint(_words(report)):
            return self.timeout("did not answer in time")
        told = retry_after or report.retry_after or None
        if status in (425, 429) or (status >= 500 and told is not None):
            problem = "is overloaded" if status >= 500 else "is over its limit of requests"
            text = f"The provider `{self._provider}` {problem}; try again later."
            wait_s = retry_after_s(told, now=datetime.now(UTC))
            return Overloaded(text, retry_after_s=wait_s, is_stated=told is not None)
        if 400 <= status < 500 and status != 409:  # a conflict is between the provider's own parts
            return self._rejected(status, report)
        return self.unavailable(f"failed with status {status}" if status else "failed")

    def _account_refused(self) -> QuillgateError:
        if self._byok:
            return ProviderCredentialRejected(self._provider)
        return self.unavailable("refused this gateway's account")

    def _rejected(self, status: int, report: ErrorReport) -> ProviderRejected:
        fallback = f"The provider `{self._provider}` refused the request with status {status}."
        return ProviderRejected(
            self._redact(report.message) or fallback,
            provider=self._provider,
            code=self._redact(_code_of(status, report), MAX_CODE_CHARACTERS),
            param=self._redact(report.param, MAX_CODE_CHARACTERS),
        )

    def _redact(self, text: str, max_characters: int = MAX_CHARACTERS) -> str:
        return redact(text, api_key=self._api_key.reveal() if self._api_key else "", max_characters=max_characters)


def read_report(body: bytes, content_type: str) -> ErrorReport:
    """Reads the body of a refusal, whatever its shape; HTML and other markup says nothing."""
    try:
        return _report_of(load_json(body))
    except JsonError:
        if content_type.startswith("text/plain"):
            return ErrorReport(message=body.decode("utf-8", errors="replace"))
        return ErrorReport()


def retry_after_s(value: str | None, *, now: datetime) -> int:
    """Returns a `Retry-After` header in whole seconds, 1 to 120; absent or unreadable counts as 1."""
    if value is None:
        return 1
    try:
        seconds = float(value)
    except ValueError:
        try:
            date = parsedate_to_datetime(value)
        except (ValueError, OverflowError):
            return 1
        seconds = (date.replace(tzinfo=date.tzinfo or UTC) - now).total_seconds()
    # A comparison with NaN is false: it ends up at 1.
    return int(min(seconds, MAX_RETRY_AFTER_S)) if seconds > 1 else 1


def _report_of(value: Any) -> ErrorReport:
    if type(value) is list:
        value = value[0] if value else None
    if type(value) is not dict:
        return ErrorReport(message=_text(value))
    error = value.get("error") or value
    if type(error) is not dict:
        return ErrorReport(message=_text(error), code=_text(value.get("code")))
    message = _text(error.get("message")) or _detail_text(error.get("detail"))
    report = ErrorReport(
        message,
        _text(error.get("type") or error.get("status")),
        _text(error.get("code")),
        _text(error.get("param")),
        retry_after=_retry_delay(error.get("details")),
    )
    inner = _inner_report(error.get("metadata"))
    return report if inner is None else replace(inner, status=report.code)


def _inner_report(metadata: Any) -> ErrorReport | None:
    """OpenRouter says only "Provider returned error" and puts the provider's own body into `metadata.raw`."""
    raw = metadata.get("raw") if type(metadata) is dict else None
    if type(raw) is not str:
        return None
    try:
        value = load_json(raw.encode("utf-8"))
    except JsonError:
        return ErrorReport(message=raw)
    inner = value.get("error") if type(value) is dict else None
    # Not recursive: a body inside the body of a body is not read.
    return _report_of({"error": {**inner, "metadata": None}}) if type(inner) is dict else None


def _retry_delay(details: Any) -> str:
    """Gemini's `google.rpc.RetryInfo`, in seconds: it sends no header."""
    for detail in details if type(details) is list else ():
        delay = detail.get("retryDelay") if type(detail) is dict else None
        if type(delay) is str and delay.endswith("s"):
            return delay.removesuffix("s")
    return ""


def _detail_text(detail: Any) -> str:
    """FastAPI's `detail`: a text, or a list of problems that each have a place."""
    if type(detail) is not list:
        return _text(detail)
    return "; ".join(_problem_text(item) for item in detail[:3] if type(item) is dict)


def _problem_text(problem: dict[str, Any]) -> str:
    place = problem.get("loc")
    path = ".".join(_text(step) for step in place) if type(place) is list else ""
    return f"{path}: {_text(problem.get('msg'))}" if path else _text(problem.get("msg"))


def _text(value: Any) -> str:
    """Texts as they are, integers of a sane size in decimal, anything else as nothing."""
    if type(value) is str:
        return value
    return str(value) if type(value) is int and abs(value) < 2**63 else ""


def _words(report: ErrorReport) -> frozenset[str]:
    return frozenset({report.kind.lower(), report.code.lower()})


def _code_of(status: int, report: ErrorReport) -> str:
    """The provider's code, but for the two failures that clients act on: they know OpenAI's codes only.

    Agents shorten the conversation at the one, and people choose another model at the other.
    """
    if status in _SIZE_STATUSES and _CONTEXT_WORDS.search(report.message):
        return "context_length_exceeded"
    if status in _MODEL_STATUSES and _MODEL_WORDS.search(report.message):
        return "model_not_found"
    # Gemini's code is the status once more, and its status the code.
    return report.kind.lower() if report.code.isdigit() and report.kind.isupper() else report.code


def _is_about_account(report: ErrorReport) -> bool:
    """Some providers answer a bad key or a spent budget with 400 or 429, which no caller can help."""
    return not _ACCOUNT_WORDS.isdisjoint(_words(report)) or bool(_ACCOUNT_TEXT.search(report.message))


def _status_of(report: ErrorReport) -> int:
    """The HTTP status that an error without one would have had; 0 when it blames nobody."""
    for code in (report.status, report.code):
        if code.isascii() and code.isdigit() and len(code) == 3:
            return int(code)
    words = _words(report)
    if not _RATE_WORDS.isdisjoint(words):
        return 429
    return 0 if _CALLER_WORDS.isdisjoint(words) else 400
