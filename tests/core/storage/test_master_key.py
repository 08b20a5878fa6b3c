"""The master keys: made once, private, several for a rotation, and never guessed where something is wrong."""

import base64
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from quillgate_core.sealing import MasterKey, MasterKeys
from quillgate_core.secret import Secret
from quillgate_core.storage.database import Database
from quillgate_core.storage.master_key import MAX_KEYS, load_or_create_master_keys, master_keys_of
from quillgate_core.storage.startup import StartupError

CANARY = "hunter2hunter2"
KEYS = [bytes([number]) * 32 for number in range(1, MAX_KEYS + 2)]
BASE64 = [base64.b64encode(key).decode() for key in KEYS]
IDS = [MasterKey(key).key_id for key in KEYS]


def _load(path: Path) -> MasterKeys:
    return load_or_create_master_keys(path, is_needed=lambda: False)


def test_it_is_made_once_and_private(tmp_path: Path) -> None:
    """The first start makes one key that only the owner can read; later starts find the same."""
    path = tmp_path / "new" / "master-key"
    keys = _load(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(base64.b64decode(path.read_text())) == 32
    assert tuple(_load(path)) == tuple(keys) == (keys.current_id,)
    assert [file.name for file in path.parent.iterdir()] == ["master-key"]
    assert tuple(_load(tmp_path / "another")) != tuple(keys)


def test_racing_starts_agree(tmp_path: Path) -> None:
    """Of several processes that start at once one makes the key, and all use it."""
    with ThreadPoolExecutor(8) as pool:
        loaded = list(pool.map(_load, [tmp_path / "master-key"] * 16))
    assert len({keys.current_id for keys in loaded}) == 1


def test_a_lost_key_is_not_replaced_in_silence(tmp_path: Path) -> None:
    """Where something is sealed already, a missing file stops the start and is not made anew."""
    path = tmp_path / "master-key"
    with pytest.raises(StartupError, match="restore it from a backup"):
        load_or_create_master_keys(path, is_needed=lambda: True)
    assert not path.exists()
    path.write_text(BASE64[0])
    assert load_or_create_master_keys(path, is_needed=lambda: True).current_id == IDS[0]


@pytest.mark.parametrize(
    "content",
    [
        f"{BASE64[0]}\n{KEYS[1].hex()}\n",
        f"\n  {KEYS[0].hex().upper()}\t\r\n\n{BASE64[1]}",
        f"{BASE64[0]}\n{BASE64[1]}\n\n",
    ],
)
def test_the_first_line_is_current(tmp_path: Path, content: str) -> None:
    """A line is a key, as base64 or in hexadecimal; the first seals, and white space does not matter."""
    path = tmp_path / "master-key"
    path.write_text(content)
    keys = _load(path)
    assert (keys.current_id, tuple(keys)) == (IDS[0], (IDS[0], IDS[1]))


@pytest.mark.parametrize(
    "text", [f"{BASE64[0]},{BASE64[1]}", f" {KEYS[0].hex()} , {BASE64[1]},", "\n".join(BASE64[:2])]
)
def test_the_variable_holds_the_same(text: str) -> None:
    """In the environment commas do as well as line breaks."""
    assert tuple(master_keys_of(Secret(text))) == (IDS[0], IDS[1])


@pytest.mark.parametrize(
    "content",
    [
        "",
        " \n\n",
        CANARY,
        f"{BASE64[0]}\n{CANARY}",
        f"{BASE64[0]} {BASE64[1]}",
        BASE64[0][:-4],
        BASE64[0][:-1],
        KEYS[0].hex()[:-2],
        KEYS[0].hex() + "ab",
        f"key = {BASE64[0]}",
        f"# {CANARY}",
        "ü" + BASE64[0],
        BASE64[0] + "\x00",
        f"{BASE64[0]}\n{KEYS[0].hex()}",
        "\n".join(BASE64),
        f"{BASE64[0]}\n" + "\n" * 20_000,
    ],
)
def test_anything_else_stops_the_start(tmp_path: Path, content: str) -> None:
    """What is no key, a key twice, too many a file that is too long: told by place, not by content."""
    path = tmp_path / "master-key"
    path.write_text(content)
    with pytest.raises(StartupError) as caught:
        _load(path)
    assert str(path) in str(caught.value)
    assert not any(secret in str(caught.value) for secret in (CANARY, BASE64[0][:20], KEYS[0].hex()[:20]))
    assert path.read_text() == content


@pytest.mark.parametrize("text", [",", CANARY, f"{BASE64[0]},{CANARY}", f"{BASE64[0]},{BASE64[0]}"])
def test_a_bad_variable_stops_the_start(text: str) -> None:
    """It is told by its name, without its content."""
    with pytest.raises(StartupError, match="QUILLGATE_MASTER_KEY") as caught:
        master_keys_of(Secret(text))
    assert CANARY not in str(caught.value)
    assert BASE64[0] not in str(caught.value)


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    """A directory in the file's place is a clear error."""
    with pytest.raises(StartupError, match="cannot be read"):
        _load(tmp_path)


def test_the_variable_takes_the_place_of_the_file(database_url: str, tmp_path: Path) -> None:
    """With it no file is made, nor read where there is one."""
    with Database(database_url, data_dir=tmp_path, master_key=Secret(BASE64[1])) as database:
        assert database.master_keys.current_id == IDS[1]
    assert not (tmp_path / "master-key").exists()


def test_the_database_knows_whether_a_key_is_needed(database_url: str, engine: Engine, tmp_path: Path) -> None:
    """The first start makes the file; once something is sealed, a start without it stops and makes none."""
    path = tmp_path / "elsewhere" / "key"
    with Database(database_url, data_dir=tmp_path, master_key_file=path) as database:
        assert database.master_keys.current_id == _load(path).current_id
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO workspaces (workspace_id, name) VALUES ('ws_a', 'x')"))
        row = "('cred_1', 'ws_a', 'p', '', '', false, '', '', '')"
        connection.execute(text(f"INSERT INTO provider_credentials VALUES {row}"))
    path.unlink()
    lost = Database(database_url, data_dir=tmp_path, master_key_file=path)
    with pytest.raises(StartupError, match="restore it from a backup"), lost:
        pass
    assert not path.exists()
