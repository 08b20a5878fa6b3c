"""Between the catalogue's models and the contract's: limits, prices and where a model is known from."""

from typing import Final

from quillgate.v1 import catalogue_service_pb2 as catalogue_pb
from quillgate.v1 import model_service_pb2 as pb
from quillgate_core.catalogue import KnownModel, Model, ModelUpstream, Source
from quillgate_core.pricing import Price, PriceTier, usd_per_token

_SOURCES: "Final[dict[Source, catalogue_pb.ModelSource.ValueType]]" = {
    "bundled": catalogue_pb.MODEL_SOURCE_BUNDLED,
    "file": catalogue_pb.MODEL_SOURCE_FILE,
    "discovered": catalogue_pb.MODEL_SOURCE_DISCOVERED,
}


def from_model(model: Model, *, asked: str = "") -> pb.Model:
    """Returns a model under the name that it was asked by, with the price of the upstream that is asked first."""
    price = model.upstreams[0].price
    return pb.Model(
        id=asked or model.id,
        object="model",
        created=model.created,
        owned_by=model.owner,
        description=model.description or None,
        context_window=model.context_window,
        max_output_tokens=model.max_output_tokens,
        input_modalities=model.input_modalities,
        output_modalities=model.output_modalities,
        endpoints=model.endpoints,
        pricing=None if price is None else from_price(price),
        full_context_messages=model.full_context_messages,
    )


def from_price(price: Price) -> pb.ModelPricing:
    """Returns a price in USD of one token."""
    return pb.ModelPricing(
        prompt=usd_per_token(price.input),
        completion=usd_per_token(price.output),
        input_cache_read=_optional(price.cached_input),
        input_cache_write=_optional(price.cache_write),
        tiers=[_from_tier(tier) for tier in sorted(price.tiers, key=lambda tier: tier.above_prompt_tokens)],
    )


def from_known(known: KnownModel, switched_on: frozenset[str]) -> catalogue_pb.CatalogueModel:
    """Returns a model as the operator sees it; `switched_on` names the providers that are."""
    return catalogue_pb.CatalogueModel(
        model=from_model(known.model),
        enabled=known.enabled,
        served=known.served,
        source=_SOURCES[known.source],
        aliases=known.aliases,
        upstreams=[_from_upstream(upstream, switched_on) for upstream in known.model.upstreams],
    )


def _from_upstream(upstream: ModelUpstream, switched_on: frozenset[str]) -> catalogue_pb.CatalogueUpstream:
    return catalogue_pb.CatalogueUpstream(
        provider=upstream.provider,
        upstream_model=upstream.model,
        switched_on=upstream.provider in switched_on,
        priority=upstream.priority or 0,
        weight=upstream.weight,
        pricing=None if upstream.price is None else from_price(upstream.price),
    )


def _from_tier(tier: PriceTier) -> pb.ModelPricingTier:
    return pb.ModelPricingTier(
        above_prompt_tokens=tier.above_prompt_tokens,
        prompt=usd_per_token(tier.input),
        completion=usd_per_token(tier.output),
        input_cache_read=_optional(tier.cached_input),
        input_cache_write=_optional(tier.cache_write),
    )


def _optional(usd_for_a_million: str | None) -> str | None:
    return None if usd_for_a_million is None else usd_per_token(usd_for_a_million)
