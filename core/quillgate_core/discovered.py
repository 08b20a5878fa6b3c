"""Models that providers' own lists tell of, and how they are merged into those that are known. Pure.

A list never takes a known model away. Where it states limits or a price, they hold, unless the operator's file states
them; a limit is lowered only by who should know, and of two lists the larger holds, for what is set aside before a
request depends on it.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from quillgate_core.catalogue import Model, ModelUpstream
from quillgate_core.catalogue_basis import CatalogueBasis
from quillgate_core.model_names import HOSTS, MAKERS, OPENROUTER, cannot_chat, form, is_model_id, proposed_id
from quillgate_core.upstream import ListedModel

MAX_TOKENS = 100_000_000


@dataclass(frozen=True, slots=True)
class DiscoveredModel:
    """What one provider's list says of one model, under the id that it has in the catalogue."""

    provider: str
    upstream_model: str
    model_id: str
    listed: ListedModel


def merged(basis: CatalogueBasis, discovered: Iterable[DiscoveredModel]) -> dict[str, Model]:
    """Returns the models of the basis with what the lists say, by id; what the operator hides stays hidden."""
    models = {model.id: model for model in basis.models}
    grown: set[str] = set()
    for found in sorted(discovered, key=_place):
        if not is_whole(found.listed) or not basis.shows(found.model_id):
            continue
        known = models.get(found.model_id)
        if known is None:
            models[found.model_id] = _new(found)
        else:
            stated = basis.stated.get(found.model_id, frozenset())
            models[found.model_id] = _changed(known, found, stated, is_first=found.model_id not in grown)
        grown.add(found.model_id)
    return models


def is_whole(listed: ListedModel) -> bool:
    """Tells whether a list says enough of a model: how much it holds."""
    return listed.context_window is not None and 1 <= listed.context_window <= MAX_TOKENS


def is_language_model(listed: ListedModel) -> bool:
    """Tells whether a listed model can be chatted with, as far as the list and the name tell."""
    if listed.output_modalities and set(listed.output_modalities) != {"text"}:
        return False
    if listed.input_modalities and "text" not in listed.input_modalities:
        return False
    return bool(listed.output_modalities) or not cannot_chat(listed.model)


def name_ids(provider: str, listed: Iterable[ListedModel], models: Mapping[str, Model]) -> dict[str, str]:
    """Returns the ids of a provider's listed models by its own names; what can have no id is left out.

    A name that an upstream of a known model has means that model. OpenRouter's names are ids; a maker's mean the known
    model of its own, and a host's that of anybody, whose name differs in form alone, else a new one. Of any other
    provider, such as a server of the operator's, no name is taken for a known model: it might be anything.
    """
    names = {
        upstream.model: model.id
        for model in models.values()
        for upstream in model.upstreams
        if upstream.provider == provider
    }
    by_form = _ids_by_form(provider, models.values())
    found: dict[str, str] = {}
    for entry in listed:
        model_id = names.get(entry.model)
        if model_id is None and is_language_model(entry):
            model_id = by_form(entry.model) or proposed_id(provider, entry.model)
        if model_id is not None and (model_id in models or is_model_id(model_id)):
            found[entry.model] = model_id
    return found


def _ids_by_form(provider: str, models: Iterable[Model]) -> Callable[[str], str | None]:
    maker = MAKERS.get(provider)
    if maker is None and provider not in HOSTS:
        return lambda name: None
    ids: dict[str, set[str]] = {}
    for model in models:
        if ":" not in model.id and (maker is None or model.id.startswith(f"{maker}/")):
            ids.setdefault(form(model.id), set()).add(model.id)

    def find(name: str) -> str | None:
        candidates = ids.get(form(name), set())
        return next(iter(candidates)) if len(candidates) == 1 else None

    return find


def _place(found: DiscoveredModel) -> tuple[bool, str, str]:
    """Returns what discovered upstreams are sorted by: OpenRouter is asked after those that it asks itself."""
    return found.provider == OPENROUTER, found.provider, found.upstream_model


def _new(found: DiscoveredModel) -> Model:
    listed = found.listed
    context_window = listed.context_window or 1
    return Model(
        id=found.model_id,
        context_window=context_window,
        # Where nobody says how long an answer may be, it may fill the context window.
        max_output_tokens=_output(listed, context_window) or context_window,
        upstreams=(_upstream(found),),
        input_modalities=listed.input_modalities or ("text",),
        output_modalities=listed.output_modalities or ("text",),
        description=listed.description,
        created=max(listed.created, 0),
    )


def _changed(known: Model, found: DiscoveredModel, stated: frozenset[str], *, is_first: bool) -> Model:
    """Returns a known model with what a list says; only the first list, of one who should know, may lower a limit."""
    listed = found.listed
    lowers = is_first and _should_know(known, found)
    changes: dict[str, Any] = {}
    window = listed.context_window or known.context_window
    output = _output(listed, window) or known.max_output_tokens
    if "context_window" not in stated:
        changes["context_window"] = window if lowers else max(window, known.context_window)
    if "max_output_tokens" not in stated:
        longest = output if lowers else max(output, known.max_output_tokens)
        changes["max_output_tokens"] = min(longest, changes.get("context_window", known.context_window))
    if "upstreams" not in stated:
        changes["upstreams"] = _upstreams(known, found, keeps_price="price" in stated)
    return msgspec.structs.replace(known, **changes)


def _should_know(known: Model, found: DiscoveredModel) -> bool:
    """Tells whether a list speaks for the model: its maker's, OpenRouter's, or that of the only one to serve it.

    Others run the model as large as suits them, and say nothing of what it holds elsewhere.
    """
    is_maker = MAKERS.get(found.provider) == known.id.partition("/")[0]
    is_alone = all(upstream.provider == found.provider for upstream in known.upstreams)
    return is_maker or is_alone or found.provider == OPENROUTER


def _upstreams(known: Model, found: DiscoveredModel, *, keeps_price: bool) -> tuple[ModelUpstream, ...]:
    """Returns the upstreams with the listed price, the provider's own among them, at the end if it is new."""
    is_there = any(
        upstream.provider == found.provider and upstream.model == found.upstream_model for upstream in known.upstreams
    )
    if not is_there:
        added = _upstream(found)
        stated = known.upstreams[0].price if keeps_price else added.price
        return (*known.upstreams, msgspec.structs.replace(added, price=stated))
    if keeps_price or found.listed.price is None:
        return known.upstreams
    return tuple(
        msgspec.structs.replace(upstream, price=found.listed.price)
        if (upstream.provider, upstream.model) == (found.provider, found.upstream_model)
        else upstream
        for upstream in known.upstreams
    )


def _upstream(found: DiscoveredModel) -> ModelUpstream:
    return ModelUpstream(found.provider, found.upstream_model, price=found.listed.price)


def _output(listed: ListedModel, context_window: int) -> int:
    return min(max(listed.max_output_tokens or 0, 0), context_window)
