"""What is learnt of a charged request after it: rows that say what is missing from its charge. Pure declarations."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

from quillgate_core.counting import Usage

VOID: Final = "void"
"""The source of an admin's decision that a request costs nothing; it is final."""


@dataclass(frozen=True, slots=True)
class UnsureRow:
    """A charged request whose usage nobody has told yet, but its provider may know."""

    workspace_id: str
    request_id: str
    provider: str
    upstream_request_id: str
    byok: bool
    settle_time: datetime


@dataclass(frozen=True, slots=True)
class Adjustment:
    """What has to be added to a charge to make it true; every member may be negative."""

    counted_messages: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    cost_picodollars: int | None = None
    """None: the cost was not told, and what is recorded stays."""


class AdjustmentStore(Protocol):
    """The ledger as far as it is corrected; blocking."""

    def unsure(self, providers: Sequence[str], limit: int) -> list[UnsureRow]:
        """Returns what can be asked of the providers, newest first."""

    def adjust(
        self, workspace_id: str, request_id: str, *, source: str, usage: Usage, cost_picodollars: int | None
    ) -> Adjustment:
        """Makes the charge true, once for each source, and returns what was added."""
