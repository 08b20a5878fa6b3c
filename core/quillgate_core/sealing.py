"""Secrets that workspaces entrust to us, sealed for the database: envelope encryption with AES-256-GCM. Pure.

    master key ── HKDF-SHA-256 ──► wrapping key ── AES-256-GCM ──► wrapped data key     (changed by a rotation)
    random data key, one a secret ───────────────── AES-256-GCM ──► ciphertext           (never changed)

Both layers authenticate what the secret belongs to, each under a purpose of its own: whatever is moved to another row,
or whose row is edited, does not open. A sealed text is a version byte, a random 96-bit nonce, the encrypted bytes and a
tag of 128 bits. It must not log, and no exception of it says what was sealed or with what.
"""

import secrets
import struct
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, field
from typing import Final

from Cryptodome.Cipher import AES
from Cryptodome.Hash import SHA256
from Cryptodome.Protocol.KDF import HKDF

from quillgate_core.secret import Secret

KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16
_KEY_ID_BYTES: Final = 4
_VERSION: Final = b"\x01"

_WRAPPING_KEY: Final = b"quillgate/v1/provider-credential/wrapping-key"
_KEY_ID: Final = b"quillgate/v1/master-key-id"
_SECRET: Final = "quillgate/v1/provider-credential/secret"  # noqa: S105 (a purpose)
_DATA_KEY: Final = "quillgate/v1/provider-credential/data-key"


class CannotOpen(Exception):
    """The sealed secret is damaged, belongs elsewhere, or needs a master key that is not here."""


@dataclass(frozen=True, slots=True)
class Belonging:
    """What a secret belongs to; one that is sealed for one belonging opens for no other."""

    workspace_id: str
    credential_id: str
    provider: str
    base_url: str

    def under(self, purpose: str) -> bytes:
        """Returns all of it under a purpose as bytes, each part with its length before it, so that none runs over."""
        parts = [part.encode() for part in (purpose, *astuple(self))]
        return _VERSION + b"".join(struct.pack(">I", len(part)) + part for part in parts)


@dataclass(frozen=True, slots=True)
class Sealed:
    """A secret that only the holder of the master key can read."""

    ciphertext: bytes = field(repr=False)
    wrapped_data_key: bytes = field(repr=False)
    master_key_id: str


class MasterKey:
    """One master key, as what is derived from it: `key_id` names it and tells nothing of it."""

    __slots__ = ("_wrapping_key", "key_id")

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"a master key has {KEY_BYTES} bytes")
        self._wrapping_key: Final = _derive(key, KEY_BYTES, _WRAPPING_KEY)
        self.key_id: Final = _derive(key, _KEY_ID_BYTES, _KEY_ID).hex()

    def wrap(self, data_key: bytes, belonging: Belonging) -> bytes:
        """Encrypts a data key."""
        return _encrypt(self._wrapping_key, data_key, belonging.under(_DATA_KEY))

    def unwrap(self, wrapped: bytes, belonging: Belonging) -> bytes:
        """Decrypts a data key; raises CannotOpen."""
        return _decrypt(self._wrapping_key, wrapped, belonging.under(_DATA_KEY))

    def __repr__(self) -> str:
        return f"MasterKey({self.key_id})"


class MasterKeys:
    """The master keys of a process: the first seals, all of them open. Raises ValueError for none or a repeated one."""

    def __init__(self, keys: Sequence[MasterKey]) -> None:
        self._keys = {key.key_id: key for key in keys}
        if not keys or len(self._keys) != len(keys):
            raise ValueError("there must be a master key, and each only once")
        self._current = keys[0]

    @property
    def current_id(self) -> str:
        """The id of the one that seals."""
        return self._current.key_id

    def __contains__(self, key_id: str) -> bool:
        return key_id in self._keys

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def seal(self, secret: Secret, belonging: Belonging) -> Sealed:
        """Encrypts a secret with a data key of its own."""
        data_key = secrets.token_bytes(KEY_BYTES)
        ciphertext = _encrypt(data_key, secret.reveal().encode(), belonging.under(_SECRET))
        return Sealed(ciphertext, self._current.wrap(data_key, belonging), self._current.key_id)

    def open(self, sealed: Sealed, belonging: Belonging) -> Secret:
        """Decrypts a secret; raises CannotOpen."""
        data_key = self._unwrap(sealed, belonging)
        return Secret(_decrypt(data_key, sealed.ciphertext, belonging.under(_SECRET)).decode())

    def rewrap(self, sealed: Sealed, belonging: Belonging) -> Sealed:
        """Encrypts the data key with the current master key; the secret itself is not touched. Raises CannotOpen."""
        data_key = self._unwrap(sealed, belonging)
        return Sealed(sealed.ciphertext, self._current.wrap(data_key, belonging), self._current.key_id)

    def _unwrap(self, sealed: Sealed, belonging: Belonging) -> bytes:
        key = self._keys.get(sealed.master_key_id)
        if key is None:
            raise CannotOpen("no master key with its id is here")
        return key.unwrap(sealed.wrapped_data_key, belonging)


def _derive(key: bytes, length: int, purpose: bytes) -> bytes:
    derived = HKDF(key, length, b"", SHA256, 1, purpose)
    assert isinstance(derived, bytes)  # a tuple only where several keys are asked for
    return derived


def _encrypt(key: bytes, plaintext: bytes, belonging: bytes) -> bytes:
    nonce = secrets.token_bytes(_NONCE_BYTES)
    cipher = AES.new(key, AES.MODE_GCM, nonce=nonce, mac_len=_TAG_BYTES).update(belonging)
    encrypted, tag = cipher.encrypt_and_digest(plaintext)
    return b"".join((_VERSION, nonce, encrypted, tag))


def _decrypt(key: bytes, blob: bytes, belonging: bytes) -> bytes:
    if blob[:1] != _VERSION or len(blob) < 1 + _NONCE_BYTES + _TAG_BYTES:
        raise CannotOpen("it has no form that is known here")
    nonce, encrypted, tag = blob[1 : 1 + _NONCE_BYTES], blob[1 + _NONCE_BYTES : -_TAG_BYTES], blob[-_TAG_BYTES:]
    cipher = AES.new(key, AES.MODE_GCM, nonce=nonce, mac_len=_TAG_BYTES).update(belonging)
    try:
        return cipher.decrypt_and_verify(encrypted, tag)
    except ValueError:
        raise CannotOpen("it is damaged, belongs elsewhere, or was sealed with another key") from None
