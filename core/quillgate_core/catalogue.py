"""The models that are served, and under which names. Immutable; knows nothing of providers but their names.

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

A model is served when at least one of its upstreams' providers is switched on, to a workspace also when it has its own
key with one.
"""

from collections.abc import Container, Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol, TypeAlias

import msgspec

from quillgate_core.counting import messages_for_tokens
from quillgate_core.errors import ModelNotFound
from quillgate_core.pricing import Price

ModelId = Annotated[str, msgspec.Meta(min_length=1, max_length=200, pattern=r"^[!-~]+$")]
Endpoint = Literal["chat.completions", "completions", "responses", "audio.transcriptions"]
"""What a model can be asked through: every language model through the first three, whatever its provider speaks."""

Modality = Literal["text", "image", "audio", "video", "file"]
"""What a model reads or writes."""

Modalities = Annotated[tuple[Modality, ...], msgspec.Meta(min_length=1)]
Tokens = Annotated[int, msgspec.Meta(ge=1, le=100_000_000)]
Endpoints = Annotated[tuple[Endpoint, ...], msgspec.Meta(min_length=1)]
AudioSeconds = Annotated[int, msgspec.Meta(ge=1, le=86_400)]

Source: TypeAlias = Literal["bundled", "file", "discovered"]
"""Where a model is known from: this release, the operator's file, or a provider's own list."""

NO_PROVIDERS: frozenset[str] = frozenset()


class ModelUpstream(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One way to serve a model: a provider, and the provider's own name for the model.

    Upstreams are tried in their order. Those with the same `priority` are equals, among which the least busy and
    fastest is asked first, or, where their `weight` differs, each as often as its weight says.
    """

    provider: ModelId
    model: ModelId
    priority: Annotated[int, msgspec.Meta(ge=0, le=1_000)] | None = None
    """Lower is tried first. None: its place in the list, from 0; a Catalogue's models have none."""
    weight: Annotated[int, msgspec.Meta(ge=1, le=1_000)] = 1
    price: Price | None = None
    """What the provider charges. None: not known."""


Upstreams = Annotated[tuple[ModelUpstream, ...], msgspec.Meta(min_length=1)]


class Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One model of the catalogue. `context_window` bounds prompt and answer together, in tokens."""

    id: ModelId
    context_window: Tokens
    max_output_tokens: Tokens
    upstreams: Upstreams
    endpoints: Endpoints = ("chat.completions", "completions", "responses")
    input_modalities: Modalities = ("text",)
    output_modalities: Modalities = ("text",)
    description: str = ""
    created: int = 0
    owned_by: str = ""
    audio_seconds_per_message: AudioSeconds = 600

    @property
    def owner(self) -> str:
        """Who made it: `owned_by`, or else what stands before the slash of the id."""
        return self.owned_by or self.id.partition("/")[0]

    @property
    def full_context_messages(self) -> int:
        """Messages that a request counts which fills the context window, nothing of it cached."""
        return messages_for_tokens(self.context_window)


class Models(Protocol):
    """The models as those who serve requests see them."""

    def get(self, model_id: str, own: Set[str] = NO_PROVIDERS) -> Model:
        """Returns the model of an id or alias, with the upstreams that can be asked, in the order to try them.

        `own` names the providers with which the workspace has a key of its own. Raises ModelNotFound.
        """

    def list(self, own: Set[str] = NO_PROVIDERS) -> tuple[Model, ...]:
        """Returns every model that is served to such a workspace, sorted by id; aliases are not listed."""


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model as the operator sees it, served or not, with all of its upstreams."""

    model: Model
    source: Source
    enabled: bool
    served: bool
    """Whether it is enabled and a provider of it is switched on."""
    aliases: tuple[str, ...]


class Catalogue:
    """The models by id; those that nobody may ask for are as good as absent.

    Of two models with one id the later one stays. An alias that is the id of a model means that model.
    """

    def __init__(
        self,
        models: Iterable[Model],
        *,
        providers: Iterable[str],
        aliases: Mapping[str, str] | None = None,
        disabled: Container[str] = NO_PROVIDERS,
        sources: Mapping[str, Source] | None = None,
    ) -> None:
        self.providers = frozenset(providers)
        self._sources: Mapping[str, Source] = sources or {}
        self._disabled = disabled
        ordered = sorted({model.id: model for model in models}.values(), key=lambda model: model.id)
        self._known: Mapping[str, Model] = {model.id: _ordered(model) for model in ordered}
        self._enabled = {name: model for name, model in self._known.items() if name not in disabled}
        self._served = {
            name: served
            for name, model in self._enabled.items()
            if (served := _served(model, self.providers)) is not None
        }
        self._aliases = {alias: name for alias, name in (aliases or {}).items() if alias not in self._known}
        self._names: dict[str, list[str]] = {}
        for alias, name in sorted(self._aliases.items()):
            self._names.setdefault(name, []).append(alias)
        self._list = tuple(self._served.values())

    def get(self, model_id: str, own: Set[str] = NO_PROVIDERS) -> Model:
        """Returns a model as Models.get says."""
        name = self._aliases.get(model_id, model_id)
        model = self._served.get(name)
        if not own <= self.providers and name in self._enabled:
            model = _served(self._enabled[name], self.providers | own)
        if model is None:
            raise ModelNotFound(model_id)
        return model

    def list(self, own: Set[str] = NO_PROVIDERS) -> tuple[Model, ...]:
        """Returns the models as Models.list says."""
        if own <= self.providers:
            return self._list
        providers = self.providers | own
        served = (_served(model, providers) for model in self._enabled.values())
        return tuple(model for model in served if model is not None)

    def known(self) -> tuple[KnownModel, ...]:
        """Returns every model with what decides whether it is served, sorted by id."""
        return tuple(self._told(model) for model in self._known.values())

    def find(self, model_id: str) -> KnownModel | None:
        """Returns the model of an id, not of an alias, served or not; None if nobody knows it."""
        model = self._known.get(model_id)
        return None if model is None else self._told(model)

    def is_known(self, model_id: str) -> bool:
        """Tells whether it is the id of a model, served or not."""
        return model_id in self._known

    def _told(self, model: Model) -> KnownModel:
        return KnownModel(
            model,
            self._sources.get(model.id, "bundled"),
            model.id not in self._disabled,
            model.id in self._served,
            tuple(self._names.get(model.id, ())),
        )


def _ordered(model: Model) -> Model:
    """Returns the model with its upstreams in the order to try them, each with its priority."""
    placed = [
        upstream if upstream.priority is not None else msgspec.structs.replace(upstream, priority=place)
        for place, upstream in enumerate(model.upstreams)
    ]
    return msgspec.structs.replace(model, upstreams=tuple(sorted(placed, key=lambda upstream: upstream.priority or 0)))


def _served(model: Model, providers: Set[str]) -> Model | None:
    """Returns the model with what can be asked, None if that is nothing."""
    upstreams = tuple(upstream for upstream in model.upstreams if upstream.provider in providers)
    if len(upstreams) == len(model.upstreams):
        return model
    return msgspec.structs.replace(model, upstreams=upstreams) if upstreams else None
