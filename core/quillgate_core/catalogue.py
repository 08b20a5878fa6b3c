"""The models that are served, read from TOML. Knows nothing of providers but their names.

    [[models]]
    id = "google/gemini-2.5-flash"
    description = "Fast and inexpensive, with a long context."
    created = 1750118400
    context_window = 1048576
    max_output_tokens = 65535
    upstreams = [
      { provider = "gemini", model = "gemini-2.5-flash" },
      { provider = "openrouter", model = "google/gemini-2.5-flash" },
    ]

A model is served when at least one of its upstreams' providers is switched on.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Literal

import msgspec

from quillgate_core.errors import ModelNotFound
from quillgate_core.pricing import Price

_Id = Annotated[str, msgspec.Meta(min_length=1, max_length=200, pattern=r"^[!-~]+$")]
Endpoint = Literal["chat.completions", "completions", "responses", "audio.transcriptions"]
"""What a model can be asked through: every language model through the first three, whatever its provider speaks."""

Modality = Literal["text", "image", "audio", "video", "file"]
"""What a model reads or writes."""

_Modalities = Annotated[tuple[Modality, ...], msgspec.Meta(min_length=1)]
_Tokens = Annotated[int, msgspec.Meta(ge=1, le=100_000_000)]


class ModelUpstream(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One way to serve a model: a provider, and the provider's own name for the model.

    Upstreams are tried in their order. Those with the same `priority` are equals, among which the least busy and
    fastest is asked first, or, where their `weight` differs, each as often as its weight says.
    """

    provider: _Id
    model: _Id
    priority: Annotated[int, msgspec.Meta(ge=0, le=1_000)] | None = None
    """Lower is tried first. None: its place in the list, from 0."""
    weight: Annotated[int, msgspec.Meta(ge=1, le=1_000)] = 1
    price: Price | None = None
    """What the provider charges. None: not known."""


class Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One model of the catalogue. `context_window` bounds prompt and answer together, in tokens."""

    id: _Id
    context_window: _Tokens
    max_output_tokens: _Tokens
    upstreams: Annotated[tuple[ModelUpstream, ...], msgspec.Meta(min_length=1)]
    endpoints: Annotated[tuple[Endpoint, ...], msgspec.Meta(min_length=1)] = (
        "chat.completions",
        "completions",
        "responses",
    )
    input_modalities: _Modalities = ("text",)
    output_modalities: _Modalities = ("text",)
    description: str = ""
    created: int = 0
    owned_by: str = ""
    audio_seconds_per_message: Annotated[int, msgspec.Meta(ge=1, le=86_400)] = 600

    @property
    def owner(self) -> str:
        """Who made it: `owned_by`, or else what stands before the slash of the id."""
        return self.owned_by or self.id.partition("/")[0]


class Catalogue:
    """The models by id; those that no switched-on provider serves are as good as absent."""

    def __init__(self, models: Iterable[Model], *, providers: Iterable[str]) -> None:
        switched_on = frozenset(providers)
        served = (_served(model, switched_on) for model in models)
        self._models: Mapping[str, Model] = {
            model.id: model for model in sorted(served, key=lambda model: model.id) if model.upstreams
        }

    def get(self, model_id: str, own: frozenset[str] = frozenset()) -> Model:
        """Returns the model; raises ModelNotFound."""
        try:
            return self._models[model_id]
        except KeyError:
            raise ModelNotFound(model_id) from None

    def list(self) -> tuple[Model, ...]:
        """Returns every served model, sorted by id."""
        return tuple(self._models.values())


def _served(model: Model, providers: frozenset[str]) -> Model:
    upstreams = tuple(upstream for upstream in model.upstreams if upstream.provider in providers)
    return msgspec.structs.replace(model, upstreams=upstreams)
