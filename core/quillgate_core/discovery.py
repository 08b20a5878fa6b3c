"""Reads what providers say that they serve, compares it with the catalogue, and keeps it for all replicas.

It runs beside the requests and in no one's way: a provider that fails, hangs or lists nonsense changes nothing. What
the differences mean for the models is decided in `discovered.py`.
"""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, Literal, TypeAlias

import msgspec

from quillgate_core.catalogue import Model, ModelUpstream
from quillgate_core.discovered import DiscoveredModel, is_whole, merged, name_ids
from quillgate_core.errors import InvalidRequest, QuillgateError
from quillgate_core.live_catalogue import CatalogueStore, LiveCatalogue
from quillgate_core.pricing import Price
from quillgate_core.principal import PLATFORM_ADMIN, Principal
from quillgate_core.upstream import ListedModel, ModelLister

log = logging.getLogger(__name__)

LIST_TIMEOUT_S: Final = 60.0
"""Longest wait for one provider's list."""

MAX_LISTED: Final = 5_000
"""Most models of one list that are looked at."""

MAX_DESCRIPTION: Final = 500
_NAME: Final = re.compile(r"[!-~]{1,200}")

Change: TypeAlias = Literal["added", "changed", "gone", "incomplete"]


@dataclass(frozen=True, slots=True)
class Difference:
    """How a provider's list differs from the catalogue in one model."""

    provider: str
    upstream_model: str
    model_id: str
    change: Change
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Sync:
    """What the lists of some providers change, or would; `failures` has a line for each that could not be asked."""

    differences: tuple[Difference, ...]
    failures: tuple[str, ...]
    written: bool


class Discovery:
    """Asks the providers that have a list; `blocking` runs what waits for the database."""

    def __init__(
        self,
        live: LiveCatalogue,
        store: CatalogueStore,
        listers: Mapping[str, ModelLister],
        *,
        blocking: Callable[[Callable[[], Any]], Awaitable[Any]],
        timeout_s: float = LIST_TIMEOUT_S,
    ) -> None:
        self._live = live
        self._store = store
        self._listers = listers
        self._blocking = blocking
        self._timeout_s = timeout_s

    async def sync_due(self, period_s: float) -> None:
        """Reads each list that no core has read within the period; a failure waits for the next one."""
        due = [name for name in self._listers if await self._blocking(partial(self._claim, name, period_s))]
        if not due:
            return
        sync = await self._sync(due, dry_run=False)
        for failure in sync.failures:
            log.warning("models were not read: %s", failure)
        for difference in sync.differences:
            log.debug("%s %s: %s", difference.model_id, difference.change, difference.detail)
        changed = sum(difference.change in ("added", "changed") for difference in sync.differences)
        log.info("the lists of %s changed %d models", ", ".join(due), changed)

    async def sync(self, principal: Principal, providers: Sequence[str] = (), *, dry_run: bool = False) -> Sync:
        """Reads the lists now, of all providers or some; raises ScopeMissing, InvalidRequest or Overloaded."""
        principal.require(PLATFORM_ADMIN)
        for index, provider in enumerate(providers):
            if provider not in self._live.basis.providers:
                message = f"There is no provider named '{provider[:64]}'."
                raise InvalidRequest(message, param=f"providers[{index}]", code="invalid_value")
        return await self._sync(tuple(dict.fromkeys(providers)) or tuple(self._listers), dry_run=dry_run)

    async def _sync(self, providers: Sequence[str], *, dry_run: bool) -> Sync:
        """Asks all of them at once; what they say is compared and kept one after the other."""
        lists = await asyncio.gather(*map(self._read, providers))
        await self._blocking(self._live.refresh)
        differences: list[Difference] = []
        failures: list[str] = []
        for provider, (listed, failure) in zip(providers, lists, strict=True):
            if failure:
                failures.append(f"{provider}: {failure}")
                continue
            comparison = _Comparison(self._live, provider, listed)
            differences.extend(comparison.differences)
            if not dry_run:
                await self._write(provider, comparison)
        return Sync(tuple(differences), tuple(failures), written=not dry_run)

    async def _read(self, provider: str) -> tuple[Mapping[str, ListedModel], str]:
        """Returns a provider's models by name, or why there are none to compare."""
        lister = self._listers.get(provider)
        if lister is None:
            return {}, "it is not switched on, or has no list of models"
        try:
            async with asyncio.timeout(self._timeout_s):
                listed = _usable(await lister.list_models())
        except TimeoutError:
            return {}, f"no list within {self._timeout_s:g} s"
        except QuillgateError as error:
            return {}, error.message
        except Exception:
            log.exception("the list of %s cannot be read", provider)
            return {}, "its list cannot be read"
        return listed, "" if listed else "it lists no models"

    async def _write(self, provider: str, comparison: "_Comparison") -> None:
        if comparison.to_write or comparison.gone:
            listed, gone = comparison.to_write, comparison.gone
            await self._blocking(partial(self._store.write_discovered, provider, listed=listed, gone=gone))
            await self._blocking(self._live.refresh)

    def _claim(self, provider: str, period_s: float) -> bool:
        return self._store.claim_discovery(provider, period_s)


class _Comparison:
    """A provider's list against the catalogue: what to tell, what to write, and what to forget."""

    def __init__(self, live: LiveCatalogue, provider: str, listed: Mapping[str, ListedModel]) -> None:
        self._provider = provider
        state = live.state
        before = {known.model.id: known.model for known in live.known()}
        ids = name_ids(provider, listed.values(), before)
        own = {model.upstream_model: model for model in state.discovered if model.provider == provider}
        self._own = own
        found = {
            name: DiscoveredModel(provider, name, ids[name], entry)
            for name, entry in listed.items()
            if name in ids and is_whole(entry) and live.basis.shows(ids[name])
        }
        others = [model for model in state.discovered if model.provider != provider]
        after = merged(live.basis, [*others, *found.values()])
        self.to_write = tuple(model for name, model in found.items() if own.get(name) != model)
        self.gone = tuple(name for name in own if name not in found)
        told = [
            *(self._compared(before.get(model.model_id), after[model.model_id], model) for model in found.values()),
            *(
                self._incomplete(name, ids[name])
                for name in ids
                if ids[name] not in before and not is_whole(listed[name])
            ),
            *(self._missing(upstream, model.id) for model in before.values() for upstream in model.upstreams),
        ]
        self._listed = listed
        self.differences = tuple(
            sorted(
                (difference for difference in told if difference is not None and self._is_true(difference)),
                key=lambda difference: (difference.change, difference.model_id),
            )
        )

    def _is_true(self, difference: Difference) -> bool:
        return difference.change != "gone" or difference.upstream_model not in self._listed

    def _compared(self, before: Model | None, after: Model, found: DiscoveredModel) -> Difference | None:
        new = _upstream(after, found)
        old = None if before is None else _upstream(before, found)
        if before is None or old is None:
            detail = f"context_window {after.context_window}, max_output_tokens {after.max_output_tokens}"
            return self._difference(found.upstream_model, after.id, "added", f"{detail}, price {_price(new)}")
        pairs = [
            ("context_window", str(before.context_window), str(after.context_window)),
            ("max_output_tokens", str(before.max_output_tokens), str(after.max_output_tokens)),
            ("price", _price(old), _price(new)),
        ]
        details = [f"{name} {was} -> {now}" for name, was, now in pairs if was != now]
        return self._difference(found.upstream_model, after.id, "changed", ", ".join(details)) if details else None

    def _incomplete(self, name: str, model_id: str) -> Difference:
        return self._difference(name, model_id, "incomplete", "its context window is not told")

    def _missing(self, upstream: ModelUpstream, model_id: str) -> Difference | None:
        if upstream.provider != self._provider:
            return None
        detail = "was discovered, and is removed" if upstream.model in self._own else "stays, for it was not discovered"
        return self._difference(upstream.model, model_id, "gone", detail)

    def _difference(self, name: str, model_id: str, change: Change, detail: str = "") -> Difference:
        return Difference(self._provider, name, model_id, change, detail)


def _usable(listed: Sequence[ListedModel]) -> dict[str, ListedModel]:
    """Returns the models by name: as many as one list may have, without what no column or answer could hold."""
    found: dict[str, ListedModel] = {}
    for entry in listed[:MAX_LISTED]:
        if _NAME.fullmatch(entry.model):
            found[entry.model] = replace(
                entry, description=_line(entry.description), created=_seconds(entry.created), price=_sane(entry.price)
            )
    return found


def _line(text: str) -> str:
    """Returns a text as one line of a bounded length."""
    return " ".join("".join(char if char.isprintable() else " " for char in text[: 4 * MAX_DESCRIPTION]).split())[
        :MAX_DESCRIPTION
    ]


def _seconds(created: int) -> int:
    return created if 0 <= created < 2**40 else 0


def _sane(price: Price | None) -> Price | None:
    """Returns the price, None if it is no price: an adapter makes it without checking what the provider wrote."""
    try:
        return msgspec.convert(msgspec.to_builtins(price), Price | None)
    except msgspec.ValidationError:
        return None


def _upstream(model: Model, found: DiscoveredModel) -> ModelUpstream | None:
    same = (found.provider, found.upstream_model)
    return next((upstream for upstream in model.upstreams if (upstream.provider, upstream.model) == same), None)


def _price(upstream: ModelUpstream | None) -> str:
    """Returns a price for people: USD of a million tokens in and out."""
    price = None if upstream is None else upstream.price
    if price is None:
        return "unknown"
    more = [f"cached {price.cached_input}"] if price.cached_input is not None else []
    more += [f"cache write {price.cache_write}"] if price.cache_write is not None else []
    more += [f"above {tier.above_prompt_tokens} {tier.input}/{tier.output}" for tier in price.tiers]
    return " ".join([f"{price.input}/{price.output}", *more])
