"""Sealing: what was sealed opens again, and nothing that was changed, moved or sealed with another key does."""

from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quillgate_core.sealing import KEY_BYTES, Belonging, CannotOpen, MasterKey, MasterKeys, Sealed
from quillgate_core.secret import Secret

OLD, NEW = MasterKey(b"o" * KEY_BYTES), MasterKey(b"n" * KEY_BYTES)
KEYS = MasterKeys([OLD])
BELONGING = Belonging("ws_1", "cred_1", "openai", "https://example.org/v1")
SECRET = Secret("sk-planted-0123456789")
CIPHERTEXT = "01d6cc1cbae5045da8f8cb3d06563b7e8c82d17fe0af646bb0f815aa69759275fb6249f4d60f387b10b0cb3b2a5cbdb3e40a"
WRAPPED = (
    "01731eabed02dfc015a1b0a106f5af52b103b66a1457e3d8dbc42429da8327f3"
    "68ca0fabeb110f03a39cc7185971217ef3390e4696704963d36b6527e1"
)
texts = st.text(st.characters(codec="utf-8"), max_size=40)
belongings = st.builds(Belonging, texts, texts, texts, texts)


@given(text=st.text(st.characters(codec="utf-8"), max_size=5_000), belonging=belongings)
def test_what_was_sealed_opens(text: str, belonging: Belonging) -> None:
    """Any text comes back for what it was sealed for, and is not to be seen in what is stored."""
    sealed = KEYS.seal(Secret(text), belonging)
    assert KEYS.open(sealed, belonging).reveal() == text
    assert len(text.encode()) < 8 or text.encode() not in sealed.ciphertext + sealed.wrapped_data_key


@given(place=st.integers(0, 10**6), layer=st.sampled_from(["ciphertext", "wrapped_data_key"]))
def test_any_flipped_bit_is_noticed(place: int, layer: str) -> None:
    """Wherever a bit of either layer is flipped, version and nonce included, the secret does not open."""
    sealed = KEYS.seal(SECRET, BELONGING)
    blob = bytearray(getattr(sealed, layer))
    blob[place // 8 % len(blob)] ^= 1 << place % 8
    with pytest.raises(CannotOpen):
        KEYS.open(replace(sealed, **{layer: bytes(blob)}), BELONGING)


@given(length=st.integers(0, 60), layer=st.sampled_from(["ciphertext", "wrapped_data_key"]))
def test_what_was_cut_does_not_open(length: int, layer: str) -> None:
    """A blob that is shorter than it was fails, down to none at all."""
    sealed = KEYS.seal(SECRET, BELONGING)
    blob = getattr(sealed, layer)
    with pytest.raises(CannotOpen):
        KEYS.open(replace(sealed, **{layer: blob[: min(length, len(blob) - 1)]}), BELONGING)


@pytest.mark.parametrize("member", [member.name for member in fields(Belonging)])
def test_it_opens_for_nothing_else(member: str) -> None:
    """With another workspace, id, provider or base URL neither layer opens, not even to be sealed anew."""
    sealed = KEYS.seal(SECRET, BELONGING)
    other = replace(BELONGING, **{member: "x"})
    for attempt in (KEYS.open, KEYS.rewrap):
        with pytest.raises(CannotOpen):
            attempt(sealed, other)


@given(first=belongings, second=belongings, purpose=texts)
def test_no_part_runs_over_into_the_next(first: Belonging, second: Belonging, purpose: str) -> None:
    """Two belongings are authenticated alike only if they are the same, wherever the borders of their parts are."""
    assert (first.under(purpose) == second.under(purpose)) == (first == second)
    assert Belonging("a", "b", "", "").under("") != Belonging("ab", "", "", "").under("")
    assert first.under("a") != first.under("b")


def test_layers_of_two_secrets_do_not_fit_together() -> None:
    """A ciphertext opens with its own data key alone, even within one belonging."""
    one, other = KEYS.seal(SECRET, BELONGING), KEYS.seal(SECRET, BELONGING)
    with pytest.raises(CannotOpen):
        KEYS.open(replace(one, ciphertext=other.ciphertext), BELONGING)
    with pytest.raises(CannotOpen):
        KEYS.open(replace(one, ciphertext=one.wrapped_data_key), BELONGING)


def test_the_same_secret_is_never_sealed_alike() -> None:
    """Data keys and nonces are random: nobody sees that two workspaces use the same key."""
    seals = [KEYS.seal(SECRET, BELONGING) for _ in range(20)]
    assert len({seal.ciphertext for seal in seals}) == len({seal.wrapped_data_key for seal in seals}) == 20
    assert len({seal.ciphertext[1:13] for seal in seals}) == 20


@pytest.mark.parametrize("claimed", [OLD.key_id, NEW.key_id, "00000000"])
def test_another_master_key_opens_nothing(claimed: str) -> None:
    """Without the right master key it does not open, whatever id the row claims."""
    sealed = replace(KEYS.seal(SECRET, BELONGING), master_key_id=claimed)
    with pytest.raises(CannotOpen):
        MasterKeys([NEW]).open(sealed, BELONGING)


def test_rewrapping_changes_only_the_wrapping() -> None:
    """After it the old master key is not needed, nor of any use; the ciphertext is the same."""
    sealed = KEYS.seal(SECRET, BELONGING)
    rewrapped = MasterKeys([NEW, OLD]).rewrap(sealed, BELONGING)
    assert (rewrapped.ciphertext, rewrapped.master_key_id) == (sealed.ciphertext, NEW.key_id)
    assert MasterKeys([NEW]).open(rewrapped, BELONGING).reveal() == SECRET.reveal()
    with pytest.raises(CannotOpen):
        KEYS.open(rewrapped, BELONGING)


def test_the_first_key_seals_and_all_open() -> None:
    """Order decides which key seals; which one opens is told by the id."""
    keys = MasterKeys([NEW, OLD])
    assert (keys.current_id, tuple(keys)) == (NEW.key_id, (NEW.key_id, OLD.key_id))
    assert keys.seal(SECRET, BELONGING).master_key_id == NEW.key_id
    assert keys.open(KEYS.seal(SECRET, BELONGING), BELONGING).reveal() == SECRET.reveal()


def test_a_master_key_s_id_is_derived() -> None:
    """Its id is eight hexadecimal digits, the same in every process, and no part of the key."""
    key = bytes(range(KEY_BYTES))
    assert MasterKey(key).key_id == "e1cb82d4" == MasterKey(key).key_id
    assert MasterKey(key).key_id not in key.hex()
    assert MasterKey(key[::-1]).key_id != MasterKey(key).key_id


def test_what_is_sealed_today_opens_tomorrow() -> None:
    """The stored form is fixed: a secret that was sealed with the first version still opens."""
    sealed = Sealed(bytes.fromhex(CIPHERTEXT), bytes.fromhex(WRAPPED), OLD.key_id)
    assert KEYS.open(sealed, BELONGING).reveal() == SECRET.reveal()


@pytest.mark.parametrize("keys", [[], [OLD, OLD], [OLD, NEW, MasterKey(b"o" * KEY_BYTES)]])
def test_there_is_a_key_and_each_is_there_once(keys: list[MasterKey]) -> None:
    """No key, and a repeated one, are refused: which one is current would be a guess."""
    with pytest.raises(ValueError, match="master key"):
        MasterKeys(keys)


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_a_master_key_has_32_bytes(length: int) -> None:
    """Anything shorter or longer is refused."""
    with pytest.raises(ValueError, match="32 bytes"):
        MasterKey(b"x" * length)


def test_nothing_prints_what_is_secret() -> None:
    """Neither keys nor what was sealed show in a `repr` or an error."""
    sealed = KEYS.seal(SECRET, BELONGING)
    with pytest.raises(CannotOpen) as caught:
        MasterKeys([NEW]).open(sealed, BELONGING)
    printed = f"{OLD!r} {KEYS!r} {sealed!r} {caught.value!r}"
    assert f"MasterKey({OLD.key_id})" in printed
    for secret in (SECRET.reveal(), repr(sealed.ciphertext), repr(sealed.wrapped_data_key), "ooooo"):
        assert secret not in printed
