"""How long to wait for a provider and how much to read from it. Pure declarations."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ProviderLimits:
    """The bounds of one call to a provider; tests inject small ones. Times are by the monotonic clock."""

    connect_s: float = 5.0
    """Name look-up, TCP and TLS together."""
    first_byte_s: float = 60.0
    """From the call to the response's headers, connecting and sending the request included."""
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
