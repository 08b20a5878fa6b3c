"""Reads what three libraries know of models: their names, limits and prices, as offers of one form.

`langchain-openrouter` carries models.dev's profiles of what OpenRouter serves, `genai-prices` the prices of all
vendors, `litellm` the limits of the vendors' own models and when those are retired. Only their data is read; it must
not decide what becomes of it, and runs in an environment of its own (`snapshot.lock`).
"""

import importlib.metadata
import json
import runpy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

SOURCES = ("genai-prices", "langchain-openrouter", "litellm")
MODALITIES = ("text", "image", "audio", "video", "file")
_PROFILE_WORDS = {"text": "text", "image": "image", "audio": "audio", "video": "video", "file": "pdf"}
_PRICE_MEMBERS = {
    "input": "input_mtok",
    "output": "output_mtok",
    "cached_input": "cache_read_mtok",
    "cache_write": "cache_write_mtok",
}
_TIER_SUFFIXES = {128_000: "128k", 200_000: "200k", 256_000: "256k", 272_000: "272k", 512_000: "512k"}
_LITELLM_PRICES = {
    "input": "input_cost_per_token",
    "output": "output_cost_per_token",
    "cached_input": "cache_read_input_token_cost",
    "cache_write": "cache_creation_input_token_cost",
}


@dataclass(frozen=True)
class Offer:
    """A model as one provider serves it; None and empty: the sources do not say."""

    name: str
    context_window: int | None = None
    max_output_tokens: int | None = None
    input_modalities: tuple[str, ...] = ()
    output_modalities: tuple[str, ...] = ()
    price: Mapping[str, Any] | None = None
    description: str = ""
    created: int = 0
    retired: date | None = None
    """The day from which it is no longer served."""
    chats: bool = True
    """Whether it answers chat completions, and not the Responses API alone."""


def versions() -> dict[str, str]:
    """Returns the versions of the libraries that were read."""
    return {name: importlib.metadata.version(name) for name in SOURCES}


def openrouter_profiles() -> Iterator[Offer]:
    """Yields what models.dev says that OpenRouter serves, without prices."""
    values = runpy.run_path(str(_file("langchain-openrouter", "_profiles.py")))["_PROFILES"]
    for name, value in values.items():
        yield Offer(
            name,
            value["max_input_tokens"],
            value["max_output_tokens"],
            tuple(word for word in MODALITIES if value.get(f"{_PROFILE_WORDS[word]}_inputs")),
            tuple(word for word in MODALITIES if value.get(f"{_PROFILE_WORDS[word]}_outputs")),
            description=value["name"],
            created=midnight_s(value["release_date"]),
        )


def vendor_models(provider: str) -> Iterator[Offer]:
    """Yields litellm's language models of a provider, by the provider's own names, with litellm's prices."""
    values = json.loads(_file("litellm", "model_prices_and_context_window_backup.json").read_text())
    for key, value in values.items():
        if value.get("litellm_provider") != provider or value.get("mode") not in ("chat", "responses"):
            continue
        retired = value.get("deprecation_date")
        yield Offer(
            key.removeprefix(f"{provider}/"),
            value.get("max_input_tokens"),
            value.get("max_output_tokens"),
            ("text", *(word for word, flag in _FLAGS.items() if value.get(flag))),
            ("text",),
            price=litellm_price(value),
            retired=date.fromisoformat(retired) if retired else None,
            chats=value["mode"] == "chat",
        )


class Prices:
    """The prices that genai-prices knows of one provider on one day."""

    def __init__(self, provider: str, day: date) -> None:
        from genai_prices.data import providers

        (self._provider,) = (found for found in providers if found.id == provider)
        self._time = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)

    def offers(self) -> Iterator[Offer]:
        """Yields every model by its name there, with its price."""
        for model in self._provider.models:
            price = genai_price(model.get_prices(self._time))
            yield Offer(model.id, model.context_window, price=price, description=model.name or "")

    def find(self, name: str) -> Mapping[str, Any] | None:
        """Returns the price of a model by any name that is known for it."""
        model = self._provider.find_model(name)
        return None if model is None else genai_price(model.get_prices(self._time))


_FLAGS = {
    "image": "supports_vision",
    "audio": "supports_audio_input",
    "video": "supports_video_input",
    "file": "supports_pdf_input",
}


def genai_price(prices: Any) -> dict[str, Any] | None:
    """Returns genai's price in our form: base rates, and a tier for each threshold that any rate has."""
    rates = {ours: getattr(prices, theirs, None) for ours, theirs in _PRICE_MEMBERS.items()}
    if rates["input"] is None or rates["output"] is None:
        return None
    starts = sorted({tier.start for rate in rates.values() for tier in getattr(rate, "tiers", ())})
    price = {name: usd_text(_rate(rate, 0)) for name, rate in rates.items() if rate is not None}
    tiers = [
        {"above_prompt_tokens": start}
        | {name: usd_text(_rate(rate, start)) for name, rate in rates.items() if rate is not None}
        for start in starts
    ]
    return price | ({"tiers": tiers} if tiers else {})


def _rate(rate: Any, start: int) -> Decimal:
    if isinstance(rate, Decimal):
        return rate
    found = rate.base
    for tier in rate.tiers:
        if tier.start <= start and start:
            found = tier.price
    return Decimal(found)


def litellm_price(value: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns litellm's price in our form; a tier says again what it does not change."""
    price = _litellm_rates(value, "")
    if "input" not in price or "output" not in price:
        return None
    tiers = []
    for start, word in _TIER_SUFFIXES.items():
        above = _litellm_rates(value, f"_above_{word}_tokens")
        if above:
            tiers.append({"above_prompt_tokens": start} | price | above)
    return price | ({"tiers": tiers} if tiers else {})


def _litellm_rates(value: Mapping[str, Any], suffix: str) -> dict[str, Any]:
    """Returns the rates that are there; a float's shortest text is what its author wrote."""
    found = {name: value.get(member + suffix) for name, member in _LITELLM_PRICES.items()}
    return {name: usd_text(Decimal(repr(float(rate))) * 10**6) for name, rate in found.items() if rate is not None}


def usd_text(amount: Decimal) -> str:
    """Returns the text of an amount without exponent or zeros at its end; at most six decimals, as Price allows."""
    text = f"{round(amount, 6):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def midnight_s(day: str) -> int:
    """Returns the midnight of a day; some are told by month or year alone."""
    return int(datetime.fromisoformat((day + "-01-01")[:10]).replace(tzinfo=UTC).timestamp())


def _file(package: str, name: str) -> Path:
    """Returns a file of an installed package without importing it."""
    (found,) = (path for path in importlib.metadata.files(package) or () if path.name == name)
    return Path(str(found.locate()))
