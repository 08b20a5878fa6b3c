"""Every way a request can fail, as one tree of exceptions: raised once here, translated twice elsewhere.

    QuillgateError                      reason                  metadata
    ├── InvalidRequest                  INVALID_REQUEST         param, code
    ├── KeyInvalid                      KEY_INVALID
    ├── PermissionRefused
    │   ├── ScopeMissing                SCOPE_MISSING           scope
    │   ├── ModelNotAllowed             MODEL_NOT_ALLOWED       model
    │   └── WorkspaceDisabled           WORKSPACE_DISABLED      workspace_id
    ├── NotFound
    │   ├── ModelNotFound               MODEL_NOT_FOUND         model
    │   ├── KeyNotFound                 KEY_NOT_FOUND           key_id
    │   ├── WorkspaceNotFound           WORKSPACE_NOT_FOUND     workspace_id
    │   ├── ReservationNotFound         RESERVATION_NOT_FOUND   request_id
    │   ├── ResponseNotFound            RESPONSE_NOT_FOUND      response_id
    │   └── ProviderCredentialNotFound  PROVIDER_CREDENTIAL_NOT_FOUND   provider
    ├── Conflict
    │   ├── DuplicateRequest            DUPLICATE_REQUEST       request_id
    │   ├── ReservationClosed           RESERVATION_CLOSED      request_id, state
    │   ├── DuplicateInProgress         DUPLICATE_IN_PROGRESS   request_id
    │   ├── AlreadyCompleted            ALREADY_COMPLETED       request_id
    │   ├── IdempotencyMismatch         IDEMPOTENCY_MISMATCH    request_id
    │   ├── KeyRevoked                  KEY_REVOKED             key_id
    │   ├── AliasTaken                  ALIAS_TAKEN             alias
    │   └── LedgerDayKept               LEDGER_DAY_KEPT         day, cause
    ├── AllowanceExhausted              ALLOWANCE_EXHAUSTED     workspace_id, limit, allowance, remaining_messages,
    │                                                           reset_time
    ├── RateLimited                     RATE_LIMITED            limit, value, remaining, reset_time, retry_after_s
    ├── ProviderError
    │   ├── ProviderRejected            PROVIDER_REJECTED       provider, code, param
    │   ├── ProviderUnavailable         PROVIDER_UNAVAILABLE    provider
    │   ├── ProviderTimeout             PROVIDER_TIMEOUT        provider
    │   └── ProviderCredentialRejected  PROVIDER_CREDENTIAL_REJECTED    provider
    └── Overloaded                      OVERLOADED              retry_after_s

Only `rpc/` knows gRPC codes and only the facade knows HTTP; nothing here may import either. The reasons and their
metadata keys are the ones that `error_reason.proto` documents.
"""

from typing import ClassVar


class QuillgateError(Exception):
    """A failure that the caller may be told about: `message` and `metadata` must hold no secret, prompt or SQL."""

    reason: ClassVar[str] = "INTERNAL"

    def __init__(self, message: str, **metadata: str | int) -> None:
        super().__init__(message)
        self.message = message
        self.metadata = {name: str(value) for name, value in metadata.items()}


class InvalidRequest(QuillgateError):
    """The request can never work as sent; `param` is the path of the offending member, such as `messages[0].role`."""

    reason = "INVALID_REQUEST"


class KeyInvalid(QuillgateError):
    """The key is missing, malformed, unknown, revoked or expired: one message for all, so nothing can be probed."""

    reason = "KEY_INVALID"

    def __init__(self, message: str = "Incorrect API key provided.") -> None:
        super().__init__(message)


class PermissionRefused(QuillgateError):
    """The key is good but may not do this."""


class ScopeMissing(PermissionRefused):
    """The key lacks the scope that the call needs."""

    reason = "SCOPE_MISSING"

    def __init__(self, scope: str) -> None:
        super().__init__(f"This key lacks the scope '{scope}' that the call needs.", scope=scope)


class ModelNotAllowed(PermissionRefused):
    """The key has a list of allowed models and the model is not on it."""

    reason = "MODEL_NOT_ALLOWED"

    def __init__(self, model: str) -> None:
        super().__init__(f"This key may not use the model `{model}`.", model=model)


class WorkspaceDisabled(PermissionRefused):
    """An admin has disabled the workspace: nothing that counts is served until that is taken back."""

    reason = "WORKSPACE_DISABLED"

    def __init__(self, workspace_id: str) -> None:
        super().__init__(
            f"The workspace `{workspace_id}` is disabled. Please ask whoever administers the service.",
            workspace_id=workspace_id,
        )


class NotFound(QuillgateError):
    """What was named does not exist, or belongs to another workspace: the two are never told apart."""


class ModelNotFound(NotFound):
    """No model with that id is served here."""

    reason = "MODEL_NOT_FOUND"

    def __init__(self, model: str) -> None:
        super().__init__(f"The model `{model}` does not exist or you do not have access to it.", model=model)


class KeyNotFound(NotFound):
    """No key with that id in a workspace that the caller can see."""

    reason = "KEY_NOT_FOUND"

    def __init__(self, key_id: str) -> None:
        super().__init__(f"No key `{key_id}`.", key_id=key_id)


class WorkspaceNotFound(NotFound):
    """No workspace with that id that the caller can see."""

    reason = "WORKSPACE_NOT_FOUND"

    def __init__(self, workspace_id: str) -> None:
        super().__init__(f"No workspace `{workspace_id}`.", workspace_id=workspace_id)


class ReservationNotFound(NotFound):
    """No reservation with that request id was made through MeteringService in the workspace."""

    reason = "RESERVATION_NOT_FOUND"

    def __init__(self, request_id: str) -> None:
        super().__init__(f"No reservation `{request_id}`.", request_id=request_id)


class ResponseNotFound(NotFound):
    """No response with that id was stored by the workspace, or it was deleted or is past its retention."""

    reason = "RESPONSE_NOT_FOUND"

    def __init__(self, response_id: str) -> None:
        super().__init__(f"Response with id '{response_id}' not found.", response_id=response_id)


class ProviderCredentialNotFound(NotFound):
    """The workspace has no key of its own with the provider."""

    reason = "PROVIDER_CREDENTIAL_NOT_FOUND"

    def __init__(self, provider: str) -> None:
        super().__init__(f"The workspace has no key of its own with the provider `{provider}`.", provider=provider)


class Conflict(QuillgateError):
    """The request contradicts what is already recorded; sending it again cannot help."""


class DuplicateRequest(Conflict):
    """The request id was used before, for another request."""

    reason = "DUPLICATE_REQUEST"

    def __init__(self, request_id: str) -> None:
        super().__init__(f"The request id `{request_id}` was used before.", request_id=request_id)


class ReservationClosed(Conflict):
    """The reservation has ended in another way than the one asked for; a terminal row never changes."""

    reason = "RESERVATION_CLOSED"

    def __init__(self, request_id: str, state: str) -> None:
        super().__init__(f"The reservation `{request_id}` is already {state}.", request_id=request_id, state=state)


class DuplicateInProgress(Conflict):
    """Another request with the same idempotency key, `request_id`, is still running."""

    reason = "DUPLICATE_IN_PROGRESS"

    def __init__(self, request_id: str) -> None:
        super().__init__(
            f"The request `{request_id}` with the same Idempotency-Key is still running.", request_id=request_id
        )


class AlreadyCompleted(Conflict):
    """The request `request_id` with the same idempotency key was charged; its answer is not kept."""

    reason = "ALREADY_COMPLETED"

    def __init__(self, request_id: str) -> None:
        super().__init__(
            f"The request `{request_id}` with the same Idempotency-Key was completed and charged. "
            "Its answer is not kept; use a new Idempotency-Key for a new one.",
            request_id=request_id,
        )


class IdempotencyMismatch(Conflict):
    """The idempotency key was used before, for the request `request_id`, which said something else."""

    reason = "IDEMPOTENCY_MISMATCH"

    def __init__(self, request_id: str) -> None:
        super().__init__(
            f"The Idempotency-Key was used before for the request `{request_id}`, which was a different one. "
            "Use a new Idempotency-Key.",
            request_id=request_id,
        )


class KeyRevoked(Conflict):
    """The key was revoked, which is final: it can be neither changed nor rotated."""

    reason = "KEY_REVOKED"

    def __init__(self, key_id: str) -> None:
        super().__init__(f"The key `{key_id}` is revoked.", key_id=key_id)


class AliasTaken(Conflict):
    """The alias is the id of a model."""

    reason = "ALIAS_TAKEN"

    def __init__(self, alias: str) -> None:
        super().__init__(f"`{alias}` is the id of a model and cannot be an alias.", alias=alias)


class LedgerDayKept(Conflict):
    """The rows of a day cannot be dropped now; `cause` is `recent`, `open_rows` or `row_count`."""

    reason = "LEDGER_DAY_KEPT"

    def __init__(self, message: str, *, day: str, cause: str) -> None:
        super().__init__(message, day=day, cause=cause)


class AllowanceExhausted(QuillgateError):
    """The workspace or the key has too few messages left; `reset_time` is the end of the UTC day or month, RFC 3339."""

    reason = "ALLOWANCE_EXHAUSTED"


class RateLimited(QuillgateError):
    """The key asks for too much at a time: requests or tokens in a minute, or requests at once."""

    reason = "RATE_LIMITED"


class ProviderError(QuillgateError):
    """The upstream provider failed. Its own words reach the caller only through ProviderRejected."""


class ProviderRejected(ProviderError):
    """The provider refused the request for a reason that the caller can act on; its text is capped and scrubbed."""

    reason = "PROVIDER_REJECTED"


class ProviderUnavailable(ProviderError):
    """The provider is down, cut the answer, sent nonsense, or refused our own credentials or quota."""

    reason = "PROVIDER_UNAVAILABLE"


class ProviderTimeout(ProviderError):
    """The provider did not answer, or stalled, longer than its limit."""

    reason = "PROVIDER_TIMEOUT"


class ProviderCredentialRejected(ProviderError):
    """The provider refused the workspace's own key; the gateway's own was not used instead."""

    reason = "PROVIDER_CREDENTIAL_REJECTED"

    def __init__(self, provider: str) -> None:
        super().__init__(
            f"The provider `{provider}` refused your workspace's own key for it. Ask whoever administers the workspace "
            "to set a new one.",
            provider=provider,
        )


class Overloaded(QuillgateError):
    """No capacity or no database right now; `retry_after_s` says when to come back, in whole seconds."""

    reason = "OVERLOADED"

    def __init__(self, message: str, *, retry_after_s: int = 1, is_stated: bool = False) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.is_stated = is_stated
        """Whether a provider stated the time, so that waiting for it is worth while."""
