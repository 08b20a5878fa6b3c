"""Every failure as OpenAI's clients expect it: the ONE table from the core's reasons to HTTP, and the facade's own.

    gRPC status + ErrorInfo.reason  ->  ROWS[reason]       what the core says
    gRPC status without ErrorInfo   ->  CODE_ROWS[code]    what gRPC itself says: the core is away, too slow, broken
    ApiError(...)                                          what the facade finds before it asks the core

Core texts are shown only for reasons of the domain `quillgate`, which are written for callers; any other gRPC text may
hold internals and is replaced. Nothing here may know how an answer is sent.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType

import grpc
import msgspec

from quillgate.v1 import error_reason_pb2
from quillgate.v1.metering_service_pb2 import LimitState
from quillgate_codec import JsonError, error_info
from quillgate_facade.allowance import in_tokens, rate_headers

logger = logging.getLogger(__name__)

DOMAIN = "quillgate"
INVALID_REQUEST = "invalid_request_error"
SERVER_ERROR = "server_error"

#: OpenAI's types of what is limited by the minute.
_REQUESTS = "requests"
_TOKENS = "tokens"

#: A month: what resets latest is a monthly limit.
_MAX_RETRY_AFTER_S = 31 * 86_400

_dumps = msgspec.json.Encoder().encode


class ApiError(Exception):
    """A failure that is ready to be answered: OpenAI's four members, the HTTP status and extra headers.

    `close` ends the connection after the answer, for requests that were not read to their end.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = INVALID_REQUEST,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] = MappingProxyType({}),
        close: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.code = code
        self.param = param
        self.headers = dict(headers)
        self.close = close

    def to_json(self) -> bytes:
        """Returns the body, always with all four members, as the clients' models demand."""
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return _dumps({"error": error})


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    `code` None takes the code from the metadata. `retry_after` names the metadata that says when to come back.
    `retry` False tells the clients' automatic retry (on 408, 409, 429 and 5xx) that it cannot help.
    """

    status: int
    kind: str
    code: str | None = None
    retry: bool = True
    retry_after: str | None = None


#: By the name of an ErrorReason without its prefix.
ROWS: Mapping[str, Row] = MappingProxyType(
    {
        "INVALID_REQUEST": Row(400, INVALID_REQUEST),
        "KEY_INVALID": Row(401, INVALID_REQUEST, "invalid_api_key"),
        "SCOPE_MISSING": Row(403, INVALID_REQUEST, "insufficient_permissions"),
        "MODEL_NOT_ALLOWED": Row(403, INVALID_REQUEST, "model_not_allowed"),
        "WORKSPACE_DISABLED": Row(403, INVALID_REQUEST, "workspace_disabled"),
        "MODEL_NOT_FOUND": Row(404, INVALID_REQUEST, "model_not_found"),
        "KEY_NOT_FOUND": Row(404, INVALID_REQUEST, "key_not_found"),
        "WORKSPACE_NOT_FOUND": Row(404, INVALID_REQUEST, "workspace_not_found"),
        "RESERVATION_NOT_FOUND": Row(404, INVALID_REQUEST, "reservation_not_found"),
        "RESPONSE_NOT_FOUND": Row(404, INVALID_REQUEST),
        "PROVIDER_CREDENTIAL_NOT_FOUND": Row(404, INVALID_REQUEST, "provider_credential_not_found"),
        "DUPLICATE_REQUEST": Row(409, INVALID_REQUEST, "duplicate_request", retry=False),
        "RESERVATION_CLOSED": Row(409, INVALID_REQUEST, "reservation_closed", retry=False),
        "DUPLICATE_IN_PROGRESS": Row(409, INVALID_REQUEST, "duplicate_in_progress", retry=False),
        "ALREADY_COMPLETED": Row(409, INVALID_REQUEST, "already_completed", retry=False),
        "IDEMPOTENCY_MISMATCH": Row(422, INVALID_REQUEST, "idempotency_mismatch", retry=False),
        "KEY_REVOKED": Row(409, INVALID_REQUEST, "key_revoked", retry=False),
        "ALIAS_TAKEN": Row(409, INVALID_REQUEST, "alias_taken", retry=False),
        "LEDGER_DAY_KEPT": Row(409, INVALID_REQUEST, "ledger_day_kept", retry=False),
        "RATE_LIMITED": Row(429, _REQUESTS, "rate_limit_exceeded", retry_after="retry_after_s"),
        "ALLOWANCE_EXHAUSTED": Row(
            429, "insufficient_quota", "insufficient_quota", retry=False, retry_after="reset_time"
        ),
        "PROVIDER_REJECTED": Row(400, INVALID_REQUEST),
        "PROVIDER_UNAVAILABLE": Row(502, SERVER_ERROR),
        "PROVIDER_TIMEOUT": Row(504, SERVER_ERROR),
        "PROVIDER_CREDENTIAL_REJECTED": Row(401, INVALID_REQUEST, "provider_credential_rejected"),
        "OVERLOADED": Row(503, SERVER_ERROR, retry_after="retry_after_s"),
        "INTERNAL": Row(500, SERVER_ERROR),
    }
)

_AWAY = "The service is not available right now. Please try again."
_BAD = "The request could not be served as sent."

#: For calls that failed without an ErrorInfo, or with a reason that is newer than this facade.
CODE_ROWS: Mapping[grpc.StatusCode, tuple[Row, str]] = MappingProxyType(
    {
        grpc.StatusCode.INVALID_ARGUMENT: (Row(400, INVALID_REQUEST), _BAD),
        grpc.StatusCode.OUT_OF_RANGE: (Row(400, INVALID_REQUEST), _BAD),
        grpc.StatusCode.UNAUTHENTICATED: (ROWS["KEY_INVALID"], "Incorrect API key provided."),
        grpc.StatusCode.PERMISSION_DENIED: (
            Row(403, INVALID_REQUEST, "insufficient_permissions"),
            "You have insufficient permissions for this operation.",
        ),
        grpc.StatusCode.NOT_FOUND: (Row(404, INVALID_REQUEST), "What you asked for does not exist."),
        grpc.StatusCode.ALREADY_EXISTS: (Row(409, INVALID_REQUEST, retry=False), "It exists already."),
        grpc.StatusCode.FAILED_PRECONDITION: (Row(409, INVALID_REQUEST, retry=False), _BAD),
        grpc.StatusCode.ABORTED: (Row(409, INVALID_REQUEST), "The request lost against another. Please try again."),
        grpc.StatusCode.RESOURCE_EXHAUSTED: (
            Row(429, _REQUESTS, "rate_limit_exceeded", retry_after="retry_after_s"),
            "Too much is asked for at once. Please try again.",
        ),
        grpc.StatusCode.DEADLINE_EXCEEDED: (Row(504, SERVER_ERROR), "The request took too long."),
        grpc.StatusCode.UNAVAILABLE: (ROWS["OVERLOADED"], _AWAY),
        grpc.StatusCode.CANCELLED: (ROWS["OVERLOADED"], _AWAY),
    }
)


def from_rpc(error: grpc.RpcError, *, request_id: str, credential: str, now: datetime | None = None) -> ApiError:
    """Translates a failed call; `credential` is what the client presented, of which a refusal shows the last four."""
    code = _code_of(error)
    info = error_info(error)
    ours = info is not None and info.domain == DOMAIN
    if info is None or not ours:
        _log_foreign(error, code, request_id)
        return _foreign(code, request_id=request_id, credential=credential)
    row = ROWS.get(info.reason) or CODE_ROWS.get(code, (ROWS["INTERNAL"], ""))[0]
    if row.status == 500:
        return internal(request_id)
    if row.code == "invalid_api_key":
        return incorrect_key(credential)
    now = now or datetime.now(UTC)
    kind = _TOKENS if info.metadata.get("limit") == "key_tokens_per_minute" else row.kind
    return ApiError(
        row.status,
        _details_of(error) or _AWAY,
        kind=kind,
        code=row.code or info.metadata.get("code") or None,
        param=info.metadata.get("param") or None,
        headers=_retry_headers(row, info, now) | _limit_headers(kind, info, now),
    )


def _foreign(code: grpc.StatusCode, *, request_id: str, credential: str) -> ApiError:
    known = CODE_ROWS.get(code)
    if known is None:
        return internal(request_id)
    row, message = known
    if row.code == "invalid_api_key":
        return incorrect_key(credential)
    headers = _retry_headers(row, error_reason_pb2.ErrorInfo(), datetime.now(UTC))
    return ApiError(row.status, message, kind=row.kind, code=row.code, headers=headers)


def _log_foreign(error: grpc.RpcError, code: grpc.StatusCode, request_id: str) -> None:
    """Tells the operator; only gRPC's own word for a lost connection is known to hold nothing of the request."""
    if code is grpc.StatusCode.UNAVAILABLE:
        logger.warning("%s: the core is unavailable: %s", request_id, _details_of(error))
    else:
        logger.warning("%s: the core failed with %s and no reason", request_id, code.name)


def _code_of(error: grpc.RpcError) -> grpc.StatusCode:
    code = getattr(error, "code", None)
    value = code() if callable(code) else None
    return value if isinstance(value, grpc.StatusCode) else grpc.StatusCode.UNKNOWN


def _details_of(error: grpc.RpcError) -> str:
    details = getattr(error, "details", None)
    return str(details() or "") if callable(details) else ""


def _retry_headers(row: Row, info: error_reason_pb2.ErrorInfo, now: datetime) -> dict[str, str]:
    headers = {} if row.retry else {"x-should-retry": "false"}
    if row.retry_after is not None:
        text = info.metadata.get(row.retry_after, "")
        seconds = _seconds_until(text, now) if row.retry_after == "reset_time" else _whole_seconds(text)
        headers["retry-after"] = str(min(max(seconds, 1), _MAX_RETRY_AFTER_S))
    return headers


def _limit_headers(unit: str, info: error_reason_pb2.ErrorInfo, now: datetime) -> dict[str, str]:
    """Returns `x-ratelimit-*` of the limit that refused; none for other refusals.

    One in messages stands for requests and, 16,000 a message, for tokens, as in answers.
    """
    is_quota = info.reason == "ALLOWANCE_EXHAUSTED"
    names = ("allowance", "remaining_messages") if is_quota else ("value", "remaining")
    try:
        value, remaining = (int(info.metadata.get(name, "")) for name in names)
        state = LimitState(value=value, remaining=remaining)
        state.reset_time.FromJsonString(info.metadata.get("reset_time", ""))
    except ValueError:
        return {}
    if is_quota:
        return rate_headers("requests", state, now) | rate_headers("tokens", in_tokens(state), now)
    return rate_headers(unit, state, now)


def _whole_seconds(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() else 1


def _seconds_until(text: str, now: datetime) -> int:
    try:
        left = datetime.fromisoformat(text) - now
    except (ValueError, TypeError):
        return 1
    return -int(-left.total_seconds() // 1)


def internal(request_id: str) -> ApiError:
    """A fault of ours; the id leads to the trace in the log."""
    message = (
        "The server had an error while processing your request. Sorry about that! "
        f"Please mention the request id {request_id} when you ask about it."
    )
    return ApiError(500, message, kind=SERVER_ERROR)


def stopping() -> ApiError:
    """The facade stops and this request did not finish in the time it was given."""
    message = "The server is stopping. Please try again."
    return ApiError(503, message, kind=SERVER_ERROR, headers={"retry-after": "1"}, close=True)


def missing_key() -> ApiError:
    """No bearer credential was sent at all."""
    message = (
        "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth "
        "(i.e. Authorization: Bearer YOUR_KEY)."
    )
    return ApiError(401, message, headers={"www-authenticate": "Bearer"})


def incorrect_key(credential: str) -> ApiError:
    """The core refused the credential; which of the possible causes it was is not said."""
    message = (
        f"Incorrect API key provided: {_masked(credential)}. It may be mistyped, expired or revoked; "
        "ask whoever runs this service for a new one."
    )
    return ApiError(401, message, code="invalid_api_key", headers={"www-authenticate": "Bearer"})


def _masked(credential: str) -> str:
    """Shows the kind of key and its last four characters, and of what is too short to be a key nothing."""
    last = credential[-4:]
    if len(credential) < 20 or not (last.isascii() and last.isalnum()):
        return "****"
    head = "qg_live_" if credential.startswith("qg_live_") else ""
    return f"{head}****{last}"


def from_json_error(error: JsonError) -> ApiError:
    """The body is not JSON, or not a request; OpenAI gives no code for the former."""
    code = None if error.code == "invalid_json" else error.code
    return ApiError(400, str(error), code=code, param=error.path or None)
