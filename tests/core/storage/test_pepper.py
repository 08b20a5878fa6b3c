"""The pepper: made once, private, the same for all who share the data directory."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from quillgate_core.storage.pepper import load_or_create_pepper
from quillgate_core.storage.startup import StartupError


def test_pepper_is_made_once_and_private(tmp_path: Path) -> None:
    """The first start makes 32 bytes that only the owner can read; later starts find the same."""
    path = tmp_path / "new" / "pepper"
    pepper = load_or_create_pepper(path)
    assert len(pepper) == 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_or_create_pepper(path) == pepper
    assert [file.name for file in path.parent.iterdir()] == ["pepper"]


def test_racing_starts_agree(tmp_path: Path) -> None:
    """Of several processes that start at once one makes the pepper, and all use it."""
    path = tmp_path / "pepper"
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(load_or_create_pepper, [path] * 16))) == 1


@pytest.mark.parametrize("content", [b"", b"x" * 31, b"x" * 33])
def test_damaged_pepper_is_refused(tmp_path: Path, content: bytes) -> None:
    """A truncated file is reported, not replaced: replacing it would make every key invalid for good."""
    path = tmp_path / "pepper"
    path.write_bytes(content)
    with pytest.raises(StartupError, match="exactly 32 bytes"):
        load_or_create_pepper(path)
    assert path.read_bytes() == content
