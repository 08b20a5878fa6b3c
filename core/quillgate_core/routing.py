"""Which upstream serves a model: pure functions from a model to the attempts to make, in order."""

from collections.abc import Container

from quillgate_core.catalogue import Model, ModelUpstream

MAX_ATTEMPTS = 1
"""A failed attempt is not repeated elsewhere yet; the caller is told and may retry."""


def attempts(model: Model, *, preferred: Container[str] = ()) -> tuple[ModelUpstream, ...]:
    """Returns the upstreams to ask, best first: those of `preferred` providers, then the catalogue's order."""
    ordered = sorted(model.upstreams, key=lambda upstream: upstream.provider not in preferred)
    return tuple(ordered[:MAX_ATTEMPTS])
