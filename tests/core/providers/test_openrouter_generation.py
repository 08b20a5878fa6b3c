"""OpenRouter's records of answers: what they say, when there is none yet, and every way to fail."""

import asyncio
import json
from typing import Any
from urllib.parse import parse_qs

import pytest
from fakes.provider_site import ProviderSite
from fakes.scripted_upstream import ScriptedAnswer, Step, bytes_answer, json_answer

from quillgate_core.catalogue_file import ProviderConfig
from quillgate_core.counting import Usage
from quillgate_core.errors import (
    Overloaded,
    ProviderCredentialRejected,
    ProviderTimeout,
    ProviderUnavailable,
    QuillgateError,
)
from quillgate_core.providers.accounts import make_account
from quillgate_core.providers.openrouter_generation import MAX_RECORD_BYTES
from quillgate_core.providers.provider_limits import ProviderLimits
from quillgate_core.secret import Secret
from quillgate_core.upstream import FoundUsage, UsageLookup

KEY = "sk-or-canary-42"
SHORT = ProviderLimits(connect_s=0.3, first_byte_s=0.3, stall_s=0.3, total_s=0.5, error_body_s=0.3)
GENERATION = {
    "id": "gen-1771967930-1gsys6ZhRaY0TPbuRsDR",
    "upstream_id": "chatcmpl-791bcf62",
    "created_at": "2026-02-24T21:19:33.705Z",
    "model": "meta-llama/llama-4-scout-17b-16e-instruct",
    "streamed": True,
    "cancelled": True,
    "finish_reason": None,
    "tokens_prompt": 65,
    "tokens_completion": 116,
    "native_tokens_prompt": 64,
    "native_tokens_completion": 98,
    "native_tokens_completion_images": None,
    "native_tokens_reasoning": 40,
    "native_tokens_cached": 16,
    "total_cost": 0.0000123,
    "usage": 0.0000123,
    "cache_discount": None,
    "upstream_inference_cost": 0,
    "is_byok": False,
    "provider_name": "Groq",
}


def lookup(site: ProviderSite, limits: ProviderLimits | None = None, *, byok: bool = False) -> UsageLookup:
    """The look-up of an account with OpenRouter's dialect."""
    config = ProviderConfig("openrouter", site.upstream.base_url, Secret(KEY), dialect="openrouter", is_trusted=True)
    found = make_account(config, site.pool, limits, byok=byok).usage_lookup
    assert found is not None
    return found


async def found(site: ProviderSite, **members: Any) -> FoundUsage | None:
    """What a record with other members says."""
    site.upstream.script(json_answer(200, {"data": {**GENERATION, **members}}))
    return await lookup(site).look_up("gen-1")


def usage(prompt: int = 64, cached: int = 16, completion: int = 98) -> Usage:
    """The record's usage."""
    return Usage(prompt_tokens=prompt, cached_tokens=cached, completion_tokens=completion)


async def test_a_record_tells_native_tokens_and_the_bill(site: ProviderSite) -> None:
    """Tokens are those of the model's own tokenizer, which the bill goes by; the cost is exact."""
    assert await found(site) == FoundUsage(usage(), 12_300_000)


async def test_it_is_asked_for_by_its_id_and_with_the_accounts_key(site: ProviderSite) -> None:
    """One GET beside the chat's address; an id cannot add to the address."""
    site.upstream.script(*[json_answer(200, {"data": GENERATION})] * 2)
    ask = lookup(site)
    await ask.look_up("gen-1771967930-1gsys6ZhRaY0TPbuRsDR")
    await ask.look_up("gen-1&id=gen-2#/../x?")
    first, second = site.upstream.requests
    assert (first.method, first.path, first.body) == ("GET", "/v1/generation", b"")
    assert first.query == "id=gen-1771967930-1gsys6ZhRaY0TPbuRsDR"
    assert (second.path, parse_qs(second.query)) == ("/v1/generation", {"id": ["gen-1&id=gen-2#/../x?"]})
    assert first.headers["authorization"] == f"Bearer {KEY}"
    assert site.upstream.connections == 1


@pytest.mark.parametrize(
    ("cost", "expected"),
    [
        ("0", 0),
        ("0.0055", 5_500_000_000),
        ("1e-12", 1),
        ("0.1", 100_000_000_000),
        ("0.123456789012", 123_456_789_012),
        ("0.0000000000005", 1),
        ("0.00000000000049", 0),
        ("1234.5", 1_234_500_000_000_000),
        ("null", None),
        ("-0.1", None),
        ("1000001", None),
        ("1e400", None),
        ("1e-400", 0),
    ],
)
async def test_costs_are_exact(site: ProviderSite, cost: str, expected: int | None) -> None:
    """Dollars become picodollars without a float between; what is no bill is none."""
    body = json.dumps({"data": {**GENERATION, "total_cost": "COST"}}).replace('"COST"', cost).encode()
    site.upstream.script(bytes_answer(body))
    answer = await lookup(site).look_up("gen-1")
    assert answer is not None
    assert answer.cost_picodollars == expected


async def test_a_vendors_own_bill_is_added(site: ProviderSite) -> None:
    """Where the account brings its own key with a vendor, OpenRouter charges its fee and the vendor the rest."""
    answer = await found(site, is_byok=True, total_cost=0.001, upstream_inference_cost=0.02)
    assert answer is not None
    assert answer.cost_picodollars == 21_000_000_000
    answer = await found(site, is_byok=False, total_cost=0.001, upstream_inference_cost=0.02)
    assert answer is not None
    assert answer.cost_picodollars == 1_000_000_000


async def test_members_that_are_not_told_count_nothing(site: ProviderSite) -> None:
    """Cached and reasoning tokens may be null; reasoning is part of the completion, never less than it."""
    assert await found(site, native_tokens_cached=None, native_tokens_reasoning=None) == FoundUsage(
        usage(cached=0), 12_300_000
    )
    assert await found(site, native_tokens_completion=3) == FoundUsage(usage(completion=40), 12_300_000)


@pytest.mark.parametrize("member", ["native_tokens_prompt", "native_tokens_completion"])
async def test_a_record_without_tokens_is_none_yet(site: ProviderSite, member: str) -> None:
    """A record appears before its tokens are counted."""
    assert await found(site, **{member: None}) is None


async def test_an_id_that_is_not_known_yet_is_no_error(site: ProviderSite) -> None:
    """For about ten seconds after the answer there is a 404; its connection is kept."""
    error = {"error": {"message": "Generation gen-1 not found", "code": 404}}
    site.upstream.script(json_answer(404, error), json_answer(200, {"data": GENERATION}))
    ask = lookup(site)
    assert await ask.look_up("gen-1") is None
    assert await ask.look_up("gen-1") == FoundUsage(usage(), 12_300_000)
    assert site.upstream.connections == 1


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (json_answer(401, {"error": {"message": "No auth credentials found", "code": 401}}), ProviderUnavailable),
        (json_answer(429, {"error": {"message": "slow down", "code": 429}}, {"retry-after": "7"}), Overloaded),
        (json_answer(500, {"error": {"message": "oops", "code": 500}}), ProviderUnavailable),
        (ScriptedAnswer(302, {"location": "/elsewhere"}), ProviderUnavailable),
        (json_answer(204, None), ProviderUnavailable),
        (bytes_answer(b"<html>"), ProviderUnavailable),
        (bytes_answer(b""), ProviderUnavailable),
        (json_answer(200, []), ProviderUnavailable),
        (json_answer(200, {}), ProviderUnavailable),
        (json_answer(200, {"data": None}), ProviderUnavailable),
        (json_answer(200, {"data": {**GENERATION, "native_tokens_prompt": "many"}}), ProviderUnavailable),
        (ScriptedAnswer(200, {}, [b" " * 65_536] * (MAX_RECORD_BYTES // 65_536 + 1)), ProviderUnavailable),
        (ScriptedAnswer(200, {}, [b"{", Step.RESET]), ProviderUnavailable),
        (ScriptedAnswer(200, {}, [b"{", Step.HANG]), ProviderTimeout),
        (ScriptedAnswer(before=[Step.HANG]), ProviderTimeout),
        (ScriptedAnswer(404, {}, [b"{", Step.HANG]), None),
    ],
)
async def test_everything_else_is_a_failure(
    site: ProviderSite, answer: ScriptedAnswer, expected: type[QuillgateError] | None
) -> None:
    """A record that is refused, cut, nonsense or too late is one of our errors, without the key."""
    site.upstream.script(answer)
    async with asyncio.timeout(5):
        if expected is None:
            assert await lookup(site, SHORT).look_up("gen-1") is None
            return
        with pytest.raises(expected) as caught:
            await lookup(site, SHORT).look_up("gen-1")
    assert KEY not in str(caught.value)


async def test_a_workspaces_key_that_is_refused_is_told_as_such(site: ProviderSite) -> None:
    """Whose key it was is for whoever reads the log."""
    site.upstream.script(json_answer(401, {"error": {"message": "User not found.", "code": 401}}))
    with pytest.raises(ProviderCredentialRejected):
        await lookup(site, byok=True).look_up("gen-1")


def test_only_openrouter_keeps_records(site: ProviderSite) -> None:
    """Nobody else is asked, and so no other rows remember an id."""
    for dialect in ("", "openai", "groq", "vllm"):
        config = ProviderConfig("x", site.upstream.base_url, Secret(KEY), dialect=dialect, is_trusted=True)
        assert make_account(config, site.pool).usage_lookup is None
    config = ProviderConfig("x", "https://openrouter.ai/api/v1", Secret(KEY))
    assert make_account(config, site.pool).usage_lookup is not None
