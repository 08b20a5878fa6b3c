"""How long to wait for a provider and how much to read from it. Pure declarations."""

from dataclasses import dataclass
from typing import Final

WHOLE_FACTOR: Final = 5
"""How much longer than the head of a stream that of a whole answer may take: it comes when the answer is done."""


@dataclass(frozen=True, slots=True)
class ProviderLimits:
    """The bounds of one call to a provider; tests inject small ones. Times are by the monotonic clock."""

    connect_s: float = 5.0
    """Name look-up, TCP and TLS together."""
    first_byte_s: float = 60.0
    """From the call to a stream's headers, connecting and sending included; a whole answer has five times as long."""
    stall_s: float = 60.0
    """Between two reads of the response's body, while it is being waited for."""
    total_s: float = 600.0
    """The whole call."""
    error_body_s: float = 5.0
    """The body of a refusal: after that the status alone has to do."""
    sse_line_bytes: int = 1024**2
    """One line of a stream."""
    sse_event_bytes: int = 4 * 1024**2
    """The data of one event of a stream."""
    response_bytes: int = 64 * 1024**2
    """The whole body of a stream, decompressed."""
    whole_bytes: int = 24 * 1024**2
    """The body of an answer that is held as a whole, decompressed."""
    error_body_bytes: int = 64 * 1024
    """The body of a refusal; the rest is not read."""

    def head_s(self, *, whole: bool) -> float:
        """Returns how long the headers of an answer may take."""
        return min(self.first_byte_s * (WHOLE_FACTOR if whole else 1), self.total_s)
