"""Posts events to the operator's webhook, signed by the Standard Webhooks specification.

The URL is the operator's own, so it is trusted as the providers that he names: it may be plain http and private. No
redirect is followed. The answer's body is not read: the status says everything.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final

import aiohttp

from quillgate_core.allowance_event import AllowanceEvent, Attempt, event_body
from quillgate_core.providers.http_pool import HttpPool
from quillgate_core.webhook_target import WebhookTarget

SEND_S: Final = 10.0

_GONE: Final = 410
_MAX_RETRY_AFTER_DIGITS: Final = 6


class Webhook:
    """An EventSender over HTTP; `clock` is the time in seconds since 1970, which receivers compare with their own."""

    def __init__(
        self,
        target: WebhookTarget,
        pool: HttpPool,
        *,
        send_s: float = SEND_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._target = target
        self._pool = pool
        self._send_s = send_s
        self._clock = clock

    async def send(self, event: AllowanceEvent) -> Attempt:
        """Posts it once; a status of 200 to 299 within 10 s is a delivery, 410 the wish to hear no more of it.

        Never raises for what the receiver does; neither the URL nor a secret is in the answer.
        """
        body = event_body(event)
        headers = {"content-type": "application/json", "user-agent": "quillgate"}
        headers |= self._target.signed_headers(event.event_id, send_time_s=int(self._clock()), body=body)
        try:
            async with asyncio.timeout(self._send_s):
                response = await self._pool.session(is_trusted=True).post(
                    self._target.url.reveal(),
                    data=body,
                    headers=headers,
                    allow_redirects=False,
                    timeout=aiohttp.ClientTimeout(total=None),
                )
        except TimeoutError:
            return Attempt(cause=f"no answer within {self._send_s:g} s")
        except (aiohttp.ClientError, OSError) as error:
            return Attempt(cause=type(error).__name__)
        response.close()
        if 200 <= response.status < 300:
            return Attempt(is_delivered=True)
        return Attempt(
            is_final=response.status == _GONE,
            cause=f"status {response.status}",
            retry_after_s=_seconds(response.headers.get("retry-after", "")),
        )


def _seconds(retry_after: str) -> float:
    """Returns a `Retry-After` in seconds; a date counts as none, for our own pauses do as well."""
    text = retry_after.strip()
    is_number = text.isascii() and text.isdecimal() and len(text) <= _MAX_RETRY_AFTER_DIGITS
    return float(text) if is_number else 0.0
