"""Which request of a workspace has an idempotency key, as a batch of steps sees it. Pure."""

from collections.abc import Iterable

from quillgate_core.errors import AlreadyCompleted, DuplicateInProgress, IdempotencyMismatch
from quillgate_core.reservation import Idempotency
from quillgate_core.storage.ledger_rows import Claim, LedgerRow


class Claims:
    """The keys that rows have; a row that is released frees its own."""

    def __init__(self, claims: Iterable[Claim]) -> None:
        self._claims = {(claim.workspace_id, claim.idempotency_key): claim for claim in claims}

    def find(self, workspace_id: str, idempotency: Idempotency) -> Claim | None:
        """Return who has the key."""
        return self._claims.get((workspace_id, idempotency.key))

    def add(self, row: LedgerRow, idempotency: Idempotency) -> None:
        """Give the key to a new row."""
        row.idempotency_key = idempotency.key
        row.request_hash = f"\\x{idempotency.request_hash.hex()}"
        self._claims[row.workspace_id, idempotency.key] = Claim(
            row.workspace_id, idempotency.key, row.request_id, row.state, idempotency.request_hash
        )


def claim_refusal(claim: Claim, row: LedgerRow | None, idempotency: Idempotency) -> Exception | None:
    """Say why a request may not have a key that somebody has; None: it may. `row` is his, if the batch knows it."""
    state = claim.state if row is None else row.state
    if state == "released" and row is not None and not row.is_stored:
        return None
    if claim.request_hash != idempotency.request_hash:
        return IdempotencyMismatch(claim.request_id)
    # A row that this very batch releases keeps the key until the commit: the unique index would see both.
    is_ended = state in ("settled", "recovered")
    return AlreadyCompleted(claim.request_id) if is_ended else DuplicateInProgress(claim.request_id)
