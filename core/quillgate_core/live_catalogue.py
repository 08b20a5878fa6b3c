"""The catalogue as it is now: what this release and the operator's file say, and what was changed while running.

Requests read an immutable Catalogue, which is replaced as a whole; nobody waits. It must not decide who may change
what. A database that is away, or a row that cannot be read, leaves the last state in force.
"""

import threading
from collections.abc import Collection, Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import Protocol

from quillgate_core.catalogue import NO_PROVIDERS, Catalogue, KnownModel, Model, Source
from quillgate_core.catalogue_basis import CatalogueBasis
from quillgate_core.discovered import DiscoveredModel, merged


@dataclass(frozen=True, slots=True)
class CatalogueState:
    """What was changed while running; `revision` grows with every change and is 0 before the first."""

    revision: int = 0
    disabled: frozenset[str] = frozenset()
    aliases: Mapping[str, str] = field(default_factory=dict)
    discovered: tuple[DiscoveredModel, ...] = ()


class CatalogueStore(Protocol):
    """Where changes of the catalogue are kept, for all replicas."""

    def revision(self) -> int:
        """Return the revision of the catalogue; cheap enough to ask every second."""

    def read(self) -> CatalogueState:
        """Return everything, as of one moment."""

    def set_enabled(self, model_id: str, *, enabled: bool) -> None:
        """Switch a model on or off; nothing changes if it is so already."""

    def set_alias(self, alias: str, model_id: str) -> None:
        """Give an alias a model, another one if it had one."""

    def delete_alias(self, alias: str) -> bool:
        """Forget an alias; False when there is none."""

    def write_discovered(self, provider: str, *, listed: Collection[DiscoveredModel], gone: Iterable[str] = ()) -> None:
        """Keep what a provider's list says of models, and forget those of its names that are gone."""

    def claim_discovery(self, provider: str, period_s: float) -> bool:
        """Tell whether this core may read the provider's list now: one of all may, once in a period."""


class LiveCatalogue:
    """Models that follow the store; `refresh` is called every second, and after an own change."""

    def __init__(self, basis: CatalogueBasis, *, providers: Iterable[str], store: CatalogueStore) -> None:
        self.basis = basis
        self._providers = frozenset(providers)
        self._store = store
        self._refreshing = threading.Lock()
        self._now = self._made(CatalogueState())

    @property
    def state(self) -> CatalogueState:
        """What was changed while running, as far as it is known here."""
        return self._now[0]

    @property
    def catalogue(self) -> Catalogue:
        """The whole of it, at this moment."""
        return self._now[1]

    def get(self, model_id: str, own: Set[str] = NO_PROVIDERS) -> Model:
        """Returns a model as Models.get says."""
        return self.catalogue.get(model_id, own)

    def list(self, own: Set[str] = NO_PROVIDERS) -> tuple[Model, ...]:
        """Returns the models as Models.list says."""
        return self.catalogue.list(own)

    def known(self) -> tuple[KnownModel, ...]:
        """Returns every model with what decides whether it is served, sorted by id."""
        return self.catalogue.known()

    def names_of(self, model_id: str) -> tuple[str, ...]:
        """Returns the id of a model and its aliases, under which keys may be allowed to use it."""
        known = self.catalogue.find(model_id)
        return (model_id,) if known is None else (model_id, *known.aliases)

    def refresh(self) -> None:
        """Reads what has changed, if anything has; blocking. Raises Overloaded and keeps the state it has."""
        with self._refreshing:
            if self._store.revision() != self.state.revision:
                self._now = self._made(self._store.read())

    def _made(self, state: CatalogueState) -> tuple[CatalogueState, Catalogue]:
        models = merged(self.basis, state.discovered)
        bundled = {model.id for model in self.basis.models}
        sources: dict[str, Source] = {
            name: self.basis.source(name) if name in bundled else "discovered" for name in models
        }
        catalogue = Catalogue(
            models.values(),
            providers=self._providers,
            aliases={**self.basis.aliases, **state.aliases},
            disabled=state.disabled,
            sources=sources,
        )
        return state, catalogue
