"""What a request used, asked of OpenRouter after it: `GET /generation?id=gen-…`, with the key that it was sent with.

    {"data": {"native_tokens_prompt": 18054, "native_tokens_cached": 18041, "native_tokens_completion": 120,
              "native_tokens_reasoning": 64, "total_cost": 0.0055, "is_byok": false, "upstream_inference_cost": null}}

Its own tokenizer counts `tokens_…`; the bill goes by the native ones, of which cached are among the prompt's and
reasoning among the completion's. The record appears about ten seconds after the answer's end; until then it is a 404.
"""

from collections.abc import Mapping
from dataclasses import replace
from decimal import ROUND_HALF_UP, Decimal
from typing import Final
from urllib.parse import quote

import msgspec

from quillgate_core.counting import Usage
from quillgate_core.pricing import PICODOLLARS
from quillgate_core.providers.addresses import addresses, sent_headers
from quillgate_core.providers.dialects import Dialect
from quillgate_core.providers.http_pool import HttpPool
from quillgate_core.providers.provider_error import ProviderErrors
from quillgate_core.providers.provider_http import ProviderHttp, ProviderResponse
from quillgate_core.providers.provider_limits import ProviderLimits
from quillgate_core.secret import Secret
from quillgate_core.upstream import FoundUsage

MAX_RECORD_BYTES: Final = 256 * 1024
LOOK_UP_S: Final = 10.0
MAX_COST_USD: Final = 1_000_000


class _Generation(msgspec.Struct):
    native_tokens_prompt: int | None = None
    native_tokens_completion: int | None = None
    native_tokens_cached: int | None = None
    native_tokens_reasoning: int | None = None
    total_cost: Decimal | None = None
    upstream_inference_cost: Decimal | None = None
    is_byok: bool | None = False


class _Record(msgspec.Struct):
    data: _Generation


_decode = msgspec.json.Decoder(_Record).decode


class OpenRouterGeneration:
    """A UsageLookup over HTTP; the arguments are those of OpenAICompatible."""

    def __init__(
        self,
        *,
        name: str,
        base_url: str,
        api_key: Secret | None,
        pool: HttpPool,
        is_trusted: bool,
        limits: ProviderLimits,
        extra_headers: Mapping[str, str],
        dialect: Dialect,
        byok: bool,
    ) -> None:
        self._url = addresses(dialect, base_url, extra_headers).of("/generation") + "?id="
        self._errors = ProviderErrors(name, api_key, byok=byok)
        limits = replace(
            limits,
            first_byte_s=min(limits.first_byte_s, LOOK_UP_S),
            total_s=min(limits.total_s, LOOK_UP_S),
            response_bytes=min(limits.response_bytes, MAX_RECORD_BYTES),
        )
        headers = sent_headers(dialect, api_key, extra_headers)
        self._http = ProviderHttp(headers, limits, self._errors, pool=pool, is_trusted=is_trusted)

    async def look_up(self, upstream_request_id: str) -> FoundUsage | None:
        """Returns what was used; None for a 404, and for a record without tokens. Raises as UsageLookup says."""
        response = await self._http.get(self._url + quote(upstream_request_id, safe=""))
        try:
            if response.status == 404:
                await response.read_refusal()
                return None
            return self._found(await self._body(response))
        finally:
            self._http.finish(response)

    async def _body(self, response: ProviderResponse) -> bytes:
        if response.status == 200:
            return await response.read_all()
        raise self._errors.for_status(
            response.status,
            await response.read_refusal(),
            content_type=response.content_type,
            retry_after=response.retry_after,
        )

    def _found(self, body: bytes) -> FoundUsage | None:
        try:
            record = _decode(body).data
        except msgspec.MsgspecError as error:
            raise self._errors.unavailable("sent a record that cannot be read") from error
        if record.native_tokens_prompt is None or record.native_tokens_completion is None:
            return None
        usage = Usage(
            prompt_tokens=record.native_tokens_prompt,
            cached_tokens=record.native_tokens_cached or 0,
            completion_tokens=max(record.native_tokens_completion, record.native_tokens_reasoning or 0),
        )
        return FoundUsage(usage, _cost_picodollars(record))


def _cost_picodollars(record: _Generation) -> int | None:
    """Returns the bill; where OpenRouter used a key of the account with the vendor, the vendor's bill comes on top."""
    if record.total_cost is None:
        return None
    cost = record.total_cost
    if record.is_byok:
        cost += record.upstream_inference_cost or 0
    if not 0 <= cost <= MAX_COST_USD:
        return None
    return int((cost * PICODOLLARS).to_integral_value(ROUND_HALF_UP))
