"""What an endpoint brings along to be metered: a tally that follows one answer, and its plan. Protocols only."""

from collections.abc import Sequence
from typing import Protocol, TypeAlias, TypeVar

from quillgate_core.counting import Usage
from quillgate_core.reservation import UsageSource

ReceivedT = TypeVar("ReceivedT", contravariant=True)
SentT = TypeVar("SentT", covariant=True)

Used: TypeAlias = tuple[Usage, UsageSource]
"""What was used so far, and who says so."""


class Tally(Protocol[ReceivedT, SentT]):
    """Follows one stream: turns what the provider sends into what the caller gets, and knows what was used."""

    @property
    def started(self) -> bool:
        """Whether the caller has been given any output."""

    @property
    def upstream_id(self) -> str:
        """The provider's own id of the answer, empty as long as it is not known."""

    def take(self, received: ReceivedT) -> Sequence[SentT]:
        """Returns what to pass on now; may be nothing."""

    def finish(self) -> None:
        """Raises ProviderUnavailable for a stream that ended before it was whole."""

    def usage(self) -> Used:
        """Returns what was used so far: the provider's last word, or an estimate."""

    def last(self) -> Sequence[SentT]:
        """Returns what ends a whole stream, once it is settled."""

    def failure(self, error: Exception) -> Sequence[SentT]:
        """Returns what to pass on before the error ends a stream that has started."""


class Plan(Protocol[ReceivedT, SentT]):
    """A request that is ready to be sent to one candidate, and the tally that follows its stream."""

    @property
    def tally(self) -> Tally[ReceivedT, SentT]:
        """Follows what comes back."""
