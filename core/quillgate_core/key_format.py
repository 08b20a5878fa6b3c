"""How a secret, its digest and public ids look. Pure: no query, so a malformed secret is refused at no cost.

A secret is `qg_live_`, 30 random base62 characters (178 bits) and 6 base62 characters of the CRC32 of everything before
them: a typing mistake and a truncated paste are told from a revoked key without asking the database, and secret
scanners find it with one regular expression. The checksum proves nothing about who made the secret.
"""

import hashlib
import hmac
import re
import secrets
import string
import zlib

BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase
SECRET_PREFIX = "qg_live_"  # noqa: S105 (a public prefix)
SECRET_PATTERN = r"qg_live_[0-9A-Za-z]{36}"  # noqa: S105 (a pattern)
KEY_ID_PATTERN = r"key_[0-9A-Za-z]{20}"

_RANDOM_CHARACTERS = 30
_CHECKSUM_CHARACTERS = 6
_ID_CHARACTERS = 20
_SECRET = re.compile(SECRET_PATTERN)
_KEY_ID = re.compile(KEY_ID_PATTERN)


def new_secret() -> str:
    """Make a secret from the system's randomness."""
    body = SECRET_PREFIX + _random_base62(_RANDOM_CHARACTERS)
    return body + _checksum(body)


def new_key_id() -> str:
    """Make a key's public id."""
    return "key_" + _random_base62(_ID_CHARACTERS)


def new_workspace_id() -> str:
    """Make a workspace's public id."""
    return "ws_" + _random_base62(_ID_CHARACTERS)


def new_credential_id() -> str:
    """Make the public id of a workspace's provider key."""
    return "cred_" + _random_base62(_ID_CHARACTERS)


def is_well_formed(secret: str) -> bool:
    """Tell whether the secret has the right shape and checksum; it may still be unknown."""
    if _SECRET.fullmatch(secret) is None:
        return False
    return _checksum(secret[:-_CHECKSUM_CHARACTERS]) == secret[-_CHECKSUM_CHARACTERS:]


def is_key_id(text: str) -> bool:
    """Tell whether the text can be a key's public id at all."""
    return _KEY_ID.fullmatch(text) is not None


def secret_digest(secret: str, pepper: bytes) -> bytes:
    """Return the 32 bytes under which the database knows a well-formed secret: HMAC-SHA-256 under the pepper."""
    return hmac.digest(pepper, secret.encode("ascii"), "sha256")


def secret_fingerprint(secret: str, key: bytes) -> bytes:
    """Return 32 bytes under which a process remembers a secret for a moment; `key` is 32 random bytes of its own.

    Unlike OpenSSL's HMAC, BLAKE2 lets no other thread run meanwhile: getting the interpreter back from the ledger's
    writer costs a request more than all of its authentication.
    """
    return hashlib.blake2b(secret.encode("utf-8", "surrogatepass"), digest_size=32, key=key).digest()


def _random_base62(length: int) -> str:
    return "".join(secrets.choice(BASE62) for _ in range(length))


def _checksum(body: str) -> str:
    value = zlib.crc32(body.encode("ascii"))
    characters = []
    for _ in range(_CHECKSUM_CHARACTERS):
        value, digit = divmod(value, 62)
        characters.append(BASE62[digit])
    return "".join(reversed(characters))
