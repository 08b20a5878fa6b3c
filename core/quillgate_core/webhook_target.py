"""Where events are sent, and how they are signed: by the Standard Webhooks specification 1.0.0. Pure.

webhook-id: evt_ws_…_2030-05-01_80
webhook-timestamp: 1903910400
webhook-signature: v1,<base64 of HMAC-SHA256 over "id.timestamp.body"> v1,<the same with another secret>
"""

import base64
import binascii
import hashlib
import hmac
import re
from typing import Final
from urllib.parse import urlsplit

from quillgate_core.catalogue_file import ConfigError
from quillgate_core.secret import Secret

URL_VARIABLE: Final = "QUILLGATE_WEBHOOK_URL"
SECRET_VARIABLE: Final = "QUILLGATE_WEBHOOK_SECRET"  # noqa: S105 - a name

MAX_SECRETS: Final = 8
MIN_SECRET_BYTES: Final = 24
MAX_SECRET_BYTES: Final = 64

_PREFIX: Final = "whsec_"
_PRINTED: Final = re.compile(r"[!-~]+")


class WebhookTarget:
    """A URL of the operator's and the secrets shared with its receiver; prints neither.

    Every secret signs: to change it, put the new one beside the old, then change the receiver, then take the old one
    away. Raises ConfigError, which repeats neither, for anything that is not http(s), or not `whsec_` and the base64 of
    24 to 64 bytes.
    """

    __slots__ = ("_keys", "_url")

    def __init__(self, url: Secret, secrets: Secret) -> None:
        problems = [] if _is_url(url.reveal()) else [f"{URL_VARIABLE}: must be an http or https URL with a host"]
        words = secrets.reveal().split()
        keys = [_key(word) for word in words]
        if not 1 <= len(words) <= MAX_SECRETS:
            problems.append(f"{SECRET_VARIABLE}: must hold 1 to {MAX_SECRETS} secrets with spaces between them")
        problems += [
            f"{SECRET_VARIABLE}: secret {number} is not whsec_ and the base64 of 24 to 64 bytes"
            for number, key in enumerate(keys[:MAX_SECRETS], 1)
            if key is None
        ]
        if problems:
            raise ConfigError(problems)
        self._url = url
        self._keys = tuple(key for key in keys if key is not None)

    @property
    def url(self) -> Secret:
        """The URL, which may hold a token of the receiver's."""
        return self._url

    def signed_headers(self, message_id: str, *, send_time_s: int, body: bytes) -> dict[str, str]:
        """Returns the headers of one attempt; `send_time_s` is its time in seconds since 1970."""
        content = f"{message_id}.{send_time_s}.".encode() + body
        signatures = (base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode() for key in self._keys)
        return {
            "webhook-id": message_id,
            "webhook-timestamp": str(send_time_s),
            "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
        }


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        has_host = bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and has_host and _PRINTED.fullmatch(text) is not None


def _key(word: str) -> bytes | None:
    try:
        key = base64.b64decode(word.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        return None
    return key if word.startswith(_PREFIX) and MIN_SECRET_BYTES <= len(key) <= MAX_SECRET_BYTES else None
