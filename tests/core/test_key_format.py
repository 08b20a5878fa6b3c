"""The format of secrets and ids: recognizable, checked without a query, digested under the pepper."""

import hashlib
import hmac
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quillgate_core.key_format import (
    BASE62,
    KEY_ID_PATTERN,
    SECRET_PATTERN,
    is_key_id,
    is_well_formed,
    new_key_id,
    new_secret,
    new_workspace_id,
    secret_digest,
)

_ZEROS = "qg_live_" + "0" * 30


def test_new_secrets_are_well_formed_and_differ() -> None:
    """Every new secret has the documented shape and a right checksum, and none comes twice."""
    made = [new_secret() for _ in range(200)]
    assert all(re.fullmatch(SECRET_PATTERN, secret) and is_well_formed(secret) for secret in made)
    assert len(set(made)) == 200


def test_ids_are_prefixed_and_differ() -> None:
    """Keys and workspaces are told apart by their ids' prefix; 20 base62 characters follow."""
    assert re.fullmatch(KEY_ID_PATTERN, new_key_id())
    assert re.fullmatch(r"ws_[0-9A-Za-z]{20}", new_workspace_id())
    assert len({new_key_id() for _ in range(200)}) == 200


@pytest.mark.parametrize("text", ["", "key_", "ws_" + "a" * 20, "key_" + "a" * 19, "key_" + "a" * 20 + "\n", "key_\0"])
def test_other_text_is_no_key_id(text: str) -> None:
    """What cannot be an id is known without asking the database."""
    assert not is_key_id(text)


def test_checksum_is_crc32_in_base62() -> None:
    """The checksum is the big-endian base62 form of CRC32 over all that precedes it, as other tools compute it."""
    assert is_well_formed(_ZEROS + _reference_checksum(_ZEROS))


def _reference_checksum(body: str) -> str:
    crc = 0xFFFFFFFF
    for byte in body.encode():
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0xEDB88320 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return "".join(BASE62[crc // 62**power % 62] for power in range(5, -1, -1))


@given(st.integers(0, 43), st.sampled_from(BASE62 + "_-. \n\0é"))
def test_any_changed_character_is_noticed(position: int, character: str) -> None:
    """One wrong character anywhere makes a secret malformed."""
    secret = _ZEROS + _reference_checksum(_ZEROS)
    changed = secret[:position] + character + secret[position + 1 :]
    assert is_well_formed(changed) == (changed == secret)


@given(st.text(max_size=60))
def test_other_text_is_malformed(text: str) -> None:
    """No text that was not made here passes, whatever its characters, and none raises."""
    assert not is_well_formed(text)


@pytest.mark.parametrize("extra", ["\n", " ", "0", "\0"])
def test_nothing_may_surround_a_secret(extra: str) -> None:
    """White space or anything else before or after a secret is not trimmed away."""
    secret = new_secret()
    assert not is_well_formed(secret + extra)
    assert not is_well_formed(extra + secret)


@given(st.binary(min_size=32, max_size=32))
def test_digest_is_hmac_under_the_pepper(pepper: bytes) -> None:
    """The digest is HMAC-SHA-256 of the whole secret, 32 bytes, different for each pepper."""
    secret = _ZEROS + _reference_checksum(_ZEROS)
    digest = secret_digest(secret, pepper)
    assert digest == hmac.new(pepper, secret.encode(), hashlib.sha256).digest()
    assert secret_digest(secret, pepper[::-1] + b"\1") != digest
