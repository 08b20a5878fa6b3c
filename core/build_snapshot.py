"""Builds `quillgate_core/snapshot.json`, the models that come with Quillgate, from what three libraries know.

    make snapshot

The rules, where the sources leave a choice:

- A model has OpenRouter's id. It enters with a known context window, and if it reads and writes text. Left out are
  OpenRouter's routers and moving names (`openrouter/…`, `~…`), whose price nobody knows before, batch prices
  (`:batch`), and what its maker has retired. `:free` variants stay: an account without credit may use no other.
- What a maker serves but OpenRouter does not enters as `maker/name` if its price is known under that very name.
- A maker whose model answers the Responses API alone is not asked for it: we speak chat to whoever serves a model.
- Limits bound what is set aside before a request, so of two the larger is taken: OpenRouter's or the maker's. Where
  nobody says how long an answer may be, it may fill the context window.
- The maker is asked first, then other vendors that run the model, then OpenRouter; whoever charges more, or holds less
  than nine tenths of the context window, is asked later.

- A model that nobody dates is as old as its first snapshot.

It needs no network. The date is that of the last change: building the same models again changes nothing.
"""

import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

from snapshot_sources import MODALITIES, Offer, Prices, openrouter_profiles, vendor_models, versions

from quillgate_core.model_names import MAKERS, OPENROUTER, cannot_chat, form, is_model_id

TARGET = Path(__file__).parent / "quillgate_core" / "snapshot.json"
MAX_TOKENS = 100_000_000


@dataclass(frozen=True)
class Vendor:
    """A provider besides OpenRouter, by its name here and in the sources."""

    provider: str
    genai: str
    litellm: str
    prefix: str = ""
    """What its names begin with that genai-prices leaves out."""
    foreign: str = ""
    """What the names of other makers' models begin with there, as a pattern."""
    counts_prompts: bool = False
    """Whether litellm's window is that of its prompts alone, without the answer."""

    @property
    def maker(self) -> str:
        """What its own models' ids begin with; empty: it runs those of others."""
        return MAKERS.get(self.provider, "")


VENDORS = (
    Vendor("openai", "openai", "openai", counts_prompts=True),
    Vendor("anthropic", "anthropic", "anthropic"),
    Vendor("gemini", "google", "gemini"),
    Vendor("mistral", "mistral", "mistral", foreign="zai|deepseek"),
    Vendor("deepseek", "deepseek", "deepseek"),
    Vendor("xai", "x-ai", "xai"),
    Vendor("groq", "groq", "groq"),
    Vendor("together", "together", "together_ai"),
    Vendor("fireworks", "fireworks", "fireworks_ai", prefix="accounts/fireworks/models/"),
)

OTHER_NAMES = {
    ("groq", "meta-llama/llama-3.3-70b-instruct"): "llama-3.3-70b-versatile",
    ("groq", "meta-llama/llama-3.1-8b-instruct"): "llama-3.1-8b-instant",
    ("together", "meta-llama/llama-3.3-70b-instruct"): "meta-llama/Llama-3.3-70B-Instruct-Turbo",
    ("deepseek", "deepseek/deepseek-chat"): "",
    ("deepseek", "deepseek/deepseek-r1"): "",
    ("mistral", "mistralai/mistral-medium-3"): "",
}
"""Names that no rule finds. Empty: the vendor's model of that name is another one."""


def main() -> None:
    """Writes the file if the models changed."""
    today = datetime.now(UTC).date()
    before = json.loads(TARGET.read_text())["models"] if TARGET.exists() else []
    models = build(today, {model["id"]: model["created"] for model in before})
    if before == models:
        sys.stdout.write("nothing changed\n")
        return
    TARGET.write_text(snapshot_text({"date": today.isoformat(), "sources": versions()}, models))
    sys.stdout.write(f"{len(models)} models, {TARGET.stat().st_size} bytes\n")


def build(today: date, created: Mapping[str, int]) -> list[dict[str, Any]]:
    """Returns the models as `catalogue.Model` reads them, sorted by id; `created` is what the last snapshot said."""
    added = int(datetime(today.year, today.month, today.day, tzinfo=UTC).timestamp())
    prices = Prices(OPENROUTER, today)
    found = {offer.name: offer for offer in _on_openrouter(prices)}
    upstreams: dict[str, list[tuple[str, Offer]]] = {model_id: [] for model_id in found}
    retired: set[str] = set()
    for vendor in VENDORS:
        for model_id, offer in _of_vendor(vendor, found, today):
            if offer.retired is not None and offer.retired <= today:
                retired |= {model_id} if vendor.maker else set()
            elif offer.chats:
                upstreams.setdefault(model_id, []).append((vendor.provider, offer))
    for model_id, offer in found.items():
        upstreams[model_id].append((OPENROUTER, offer))
    models = (
        model_entry(model_id, offers, created.get(model_id, added))
        for model_id, offers in upstreams.items()
        if offers and model_id not in retired
    )
    return sorted(models, key=lambda model: str(model["id"]))


def _on_openrouter(prices: Prices) -> Iterator[Offer]:
    """Yields OpenRouter's language models with what both sources know of them."""
    priced = {offer.name: offer for offer in prices.offers()}
    profiles = {offer.name: offer for offer in openrouter_profiles()}
    for name in sorted({*priced, *profiles}):
        profile, price = profiles.get(name), priced.get(name)
        context_window = _largest(profile and profile.context_window, price and price.context_window)
        if context_window is None or not is_model_id(name):
            continue
        offer = profile or replace(price or Offer(name), input_modalities=("text",), output_modalities=("text",))
        free = {"input": "0", "output": "0"} if name.endswith(":free") else None
        charged = free or (price.price if price else prices.find(name))
        is_sure = profile is not None or (charged is not None and not cannot_chat(name))
        if is_sure and is_language_model(offer):
            yield replace(offer, context_window=context_window, price=charged)


def is_language_model(offer: Offer) -> bool:
    """Tells whether it can be chatted with: it reads and writes text, and is not there for pictures or music."""
    return "text" in offer.input_modalities and offer.output_modalities == ("text",)


def _of_vendor(vendor: Vendor, found: Mapping[str, Offer], today: date) -> Iterator[tuple[str, Offer]]:
    """Yields a vendor's offers by the model's id."""
    prices = Prices(vendor.genai, today)
    known = {offer.name: offer for offer in vendor_models(vendor.litellm)}
    if vendor.prefix:  # genai-prices lists what it serves to everybody, litellm also what one must rent
        known = {
            vendor.prefix + offer.name: replace(known.get(vendor.prefix + offer.name, offer), price=offer.price)
            for offer in prices.offers()
        }
    by_form = {form(name): offer for name, offer in sorted(known.items(), reverse=True)}
    for model_id in found:
        if ":" in model_id or not model_id.startswith(f"{vendor.maker}/" if vendor.maker else ""):
            continue
        name = OTHER_NAMES.get((vendor.provider, model_id))
        offer = by_form.get(form(model_id)) if name is None else known.get(name, Offer(name) if name else None)
        if offer is not None:
            full = vendor.prefix + offer.name.removeprefix(vendor.prefix)
            yield model_id, replace(offer, name=full, price=prices.find(offer.name) or offer.price)
    if vendor.maker:
        yield from _own(vendor, by_form, prices, {form(model_id) for model_id in found})


def _own(
    vendor: Vendor, by_form: Mapping[str, Offer], prices: Prices, present: Iterable[str]
) -> Iterator[tuple[str, Offer]]:
    """Yields what only the maker serves."""
    priced = {offer.name: offer for offer in prices.offers() if offer.price}
    for own in sorted({*by_form} - {*present}):
        offer = by_form[own]
        model_id, same, window = f"{vendor.maker}/{offer.name}", priced.get(offer.name), offer.context_window
        is_foreign = bool(vendor.foreign) and re.match(vendor.foreign, offer.name) is not None
        if same is None or window is None or offer.max_output_tokens is None or is_foreign:
            continue
        if is_model_id(model_id) and not cannot_chat(offer.name):
            window += offer.max_output_tokens if vendor.counts_prompts else 0
            yield model_id, replace(offer, context_window=window, price=same.price, description=same.description)


def model_entry(model_id: str, offers: list[tuple[str, Offer]], added: int) -> dict[str, Any]:
    """Returns a model of who serves it, in the order to ask; `added` dates what nobody else does."""
    maker, _, name = model_id.partition("/")
    stated = [offer for provider, offer in offers if provider == OPENROUTER or MAKERS.get(provider) == maker]
    context_window = max(offer.context_window or 0 for offer in stated)
    output = max(offer.max_output_tokens or 0 for offer in stated) or context_window
    reads = {word for offer in stated for word in offer.input_modalities}
    return {
        "id": model_id,
        "description": next((offer.description for offer in reversed(stated) if offer.description), name),
        "created": next((offer.created for offer in stated if offer.created), added),
        "context_window": min(context_window, MAX_TOKENS),
        "max_output_tokens": min(output, context_window),
        "input_modalities": [word for word in MODALITIES if word in reads],
        "upstreams": [
            {"provider": provider, "model": offer.name} | ({"price": offer.price} if offer.price else {})
            for provider, offer in sorted(offers, key=partial(_place, offers, context_window))
        ],
    }


def _place(offers: list[tuple[str, Offer]], context_window: int, entry: tuple[str, Offer]) -> tuple[bool, Decimal, int]:
    """Returns what an upstream is sorted by; a price that is not known counts as the usual one."""
    _, offer = entry
    # What litellm calls the window is the prompt's part of it with some vendors.
    window = (offer.context_window or context_window) + (offer.max_output_tokens or 0)
    is_short = window * 10 < context_window * 9
    known = [_blend(other.price) for _, other in offers if other.price]
    usual = min(known, default=Decimal(0))
    return is_short, _blend(offer.price) if offer.price else usual, offers.index(entry)


def _blend(price: Mapping[str, Any]) -> Decimal:
    """Returns what three tokens of prompt and one of answer cost."""
    return 3 * Decimal(price["input"]) + Decimal(price["output"])


def _largest(*values: int | None) -> int | None:
    return max((value for value in values if value), default=None)


def snapshot_text(head: Mapping[str, Any], models: list[dict[str, Any]]) -> str:
    """Returns JSON with a model a line, so that a change of one is a line in a diff."""
    lines = ",\n".join(json.dumps(model, ensure_ascii=False, separators=(",", ":")) for model in models)
    return json.dumps(head)[:-1] + ', "models": [\n' + lines + "\n]}\n"


if __name__ == "__main__":
    main()
