"""Allow-lists and aliases: what a key may ask for, and what it learns of the rest."""

import pytest

from quillgate_core.catalogue import Catalogue, Model, ModelUpstream
from quillgate_core.errors import ModelNotAllowed, ModelNotFound, QuillgateError
from quillgate_core.model_access import usable_model
from quillgate_core.principal import INFERENCE, Principal

MODELS = [
    Model(id=model_id, context_window=9, max_output_tokens=9, upstreams=(ModelUpstream("p", "m"),))
    for model_id in ("g/a", "g/b")
]
CATALOGUE = Catalogue(MODELS, providers=["p"], aliases={"fast": "g/a"})


def _key(*allowed: str) -> Principal:
    return Principal("key_1", 1, "ws_1", frozenset({INFERENCE}), allowed)


@pytest.mark.parametrize(
    ("allowed", "asked"),
    [((), "g/a"), ((), "fast"), (("g/a",), "g/a"), (("g/a",), "fast"), (("fast",), "fast"), (("g/b", "fast"), "fast")],
)
def test_usable(allowed: tuple[str, ...], asked: str) -> None:
    """A key without a list uses everything; one with a list what it names, a named model by its aliases too."""
    assert usable_model(CATALOGUE, _key(*allowed), asked).id == "g/a"


@pytest.mark.parametrize(
    ("allowed", "asked", "error"),
    [
        (("fast",), "g/a", ModelNotAllowed),
        (("g/b",), "fast", ModelNotAllowed),
        (("g/b",), "g/a", ModelNotAllowed),
        (("g/b",), "g/none", ModelNotAllowed),
        (("g/none",), "g/none", ModelNotFound),
        ((), "g/none", ModelNotFound),
    ],
)
def test_not_usable(allowed: tuple[str, ...], asked: str, error: type[QuillgateError]) -> None:
    """A named alias does not open its model; what is not on the list is refused alike, whether it exists or not."""
    with pytest.raises(error) as caught:
        usable_model(CATALOGUE, _key(*allowed), asked)
    assert caught.value.metadata == {"model": asked}
