"""A catalogue store in memory, and providers' lists by hand: enough to tell what the use cases make of them."""

import asyncio
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from quillgate_core.discovered import DiscoveredModel
from quillgate_core.errors import Overloaded
from quillgate_core.live_catalogue import CatalogueState
from quillgate_core.upstream import ListedModel


class FakeCatalogueStore:
    """Keeps the state; `reads` counts how often it was read whole, and while `away` there is no database."""

    def __init__(self, state: CatalogueState | None = None) -> None:
        self.state = state or CatalogueState()
        self.reads = 0
        self.away = False
        self.claims: list[tuple[str, float]] = []
        self.free = True

    def revision(self) -> int:
        if self.away:
            raise Overloaded("The database is not available right now; please try again.")
        return self.state.revision

    def read(self) -> CatalogueState:
        self.reads += 1
        return self.state

    def set_enabled(self, model_id: str, *, enabled: bool) -> None:
        disabled = self.state.disabled - {model_id} if enabled else self.state.disabled | {model_id}
        self._change(disabled=disabled)

    def set_alias(self, alias: str, model_id: str) -> None:
        self._change(aliases={**self.state.aliases, alias: model_id})

    def delete_alias(self, alias: str) -> bool:
        is_there = alias in self.state.aliases
        self._change(aliases={name: model for name, model in self.state.aliases.items() if name != alias})
        return is_there

    def write_discovered(self, provider: str, *, listed: Collection[DiscoveredModel], gone: Iterable[str] = ()) -> None:
        names = {model.upstream_model for model in listed} | set(gone)
        kept = [m for m in self.state.discovered if m.provider != provider or m.upstream_model not in names]
        self._change(discovered=(*kept, *listed))

    def claim_discovery(self, provider: str, period_s: float) -> bool:
        self.claims.append((provider, period_s))
        return self.free

    def _change(self, **changes: object) -> None:
        self.state = replace(self.state, revision=self.state.revision + 1, **changes)  # type: ignore[arg-type]


class FakeLister:
    """A provider's list: what it says, or how it fails; `hangs` for ever when told to."""

    def __init__(self, *listed: ListedModel, error: Exception | None = None, hangs: bool = False) -> None:
        self.listed: Sequence[ListedModel] = listed
        self.error = error
        self.hangs = hangs
        self.asked = 0

    async def list_models(self) -> Sequence[ListedModel]:
        self.asked += 1
        if self.hangs:
            await asyncio.Event().wait()
        if self.error is not None:
            raise self.error
        return self.listed
