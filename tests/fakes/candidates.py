"""Candidates of a few words, for tests of routing."""

from typing import Any

from quillgate_core.catalogue import Model, ModelUpstream
from quillgate_core.routing import Candidate
from quillgate_core.upstream import Account


def model_of(*providers: str, model_id: str = "m", **upstream: Any) -> Model:
    """A model that each of the providers serves; `upstream` goes to every upstream."""
    upstreams = tuple(ModelUpstream(provider, f"{provider}-{model_id}", **upstream) for provider in providers)
    return Model(model_id, 100_000, 1_000, upstreams)


def candidate(provider: str = "a", *, weight: int = 1, max_in_flight: int = 0, **members: Any) -> Candidate:
    """One candidate; `members` are its own."""
    upstream = ModelUpstream(provider, "up", weight=weight)
    account = Account(provider, max_in_flight=max_in_flight)
    return Candidate(Model("m", 10, 5, (upstream,)), upstream, account, **members)
