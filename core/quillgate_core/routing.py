"""Which upstream serves a model: pure functions from a model to the attempts to make, in order."""

from quillgate_core.catalogue import Model, ModelUpstream

MAX_ATTEMPTS = 1
"""A failed attempt is not repeated elsewhere yet; the caller is told and may retry."""


def attempts(model: Model) -> tuple[ModelUpstream, ...]:
    """Returns the upstreams to ask, best first: the catalogue's order."""
    return model.upstreams[:MAX_ATTEMPTS]
