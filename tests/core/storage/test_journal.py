"""The journal: ends on disk, one file a process, readable whatever a crash did to it."""

import stat
from datetime import date
from pathlib import Path

import pytest
from fakes.full_disk import FullDisk
from msgspec.structs import replace

from quillgate_core.counting import Usage
from quillgate_core.reservation import Release, Settle
from quillgate_core.storage.journal import End, Journal, left_journals

SETTLE = Settle(
    workspace_id="ws",
    request_id="r1",
    usage=Usage(10, 2, 5, 3, 1),
    usage_source="estimate",
    owner="core_dead",
    day=date(2030, 5, 1),
    upstream="openrouter",
    upstream_request_id="gen-ü",
    byok=True,
    cost_picodollars=10**15,
    outcome="caller_gone",
)
RELEASE = Release(workspace_id="ws", request_id="r2", owner="core_dead", day=date(2030, 5, 1), nonce=2**63 - 1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the journal of the test's process is."""
    return tmp_path / "journal" / "core_dead.jsonl"


def written(path: Path, *ends: End) -> None:
    """Leave a journal as a process does that dies."""
    journal = Journal(path)
    journal.open()
    journal.append(ends)
    journal.close(keep=True)


def read(path: Path) -> tuple[list[End], bool]:
    """Read what a dead process left."""
    (left,) = left_journals(path.parent)
    try:
        return left.read()
    finally:
        left.close()


def found(path: Path) -> list[str]:
    """Which processes have left a journal."""
    names = []
    for left in left_journals(path.parent):
        names.append(left.instance_id)
        left.close()
    return names


def test_ends_come_back_as_they_were(path: Path) -> None:
    """Every member of a Settle and of a Release survives, in the order in which they were written."""
    written(path, SETTLE, RELEASE, SETTLE)
    assert read(path) == ([SETTLE, RELEASE, SETTLE], True)
    assert found(path) == ["core_dead"]


def test_file_and_directory_are_private(path: Path) -> None:
    """Nobody else reads what customers used."""
    written(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_journal_is_left_when_its_process_is_gone(path: Path) -> None:
    """While its process lives nobody finds it; a clean end removes it, and there is nothing without a directory."""
    assert found(path) == []
    journal = Journal(path)
    journal.open()
    journal.append([SETTLE])
    assert found(path) == []
    journal.close()
    journal.close()
    assert found(path) == []
    assert list(path.parent.iterdir()) == []


def test_an_empty_journal_tells_of_its_process(path: Path) -> None:
    """A process that wrote nothing down and died is known all the same."""
    written(path)
    assert read(path) == ([], True)


def test_one_process_inherits_a_journal(path: Path) -> None:
    """Who has found it has it alone; when it is removed or set aside, nobody finds it again."""
    written(path, SETTLE)
    (left,) = left_journals(path.parent)
    assert found(path) == []
    left.close()
    (left,) = left_journals(path.parent)
    left.remove()
    left.close()
    assert found(path) == []
    written(path, SETTLE)
    (left,) = left_journals(path.parent)
    aside = left.set_aside()
    left.close()
    assert found(path) == []
    assert aside.name == "core_dead.corrupt"
    assert aside.read_bytes() != b""


def test_what_has_landed_is_forgotten(path: Path) -> None:
    """Clearing empties the file, which then takes new ends."""
    journal = Journal(path)
    journal.open()
    journal.append([SETTLE])
    journal.clear()
    assert path.stat().st_size == 0
    journal.append([RELEASE])
    journal.close(keep=True)
    assert read(path) == ([RELEASE], True)


def test_a_torn_last_line_is_passed_over(path: Path) -> None:
    """Wherever a crash cut the last line, the ones before are read and nothing is damaged."""
    written(path, SETTLE, RELEASE)
    content = path.read_bytes()
    start = content.index(b"\n") + 1
    for length in range(start, len(content)):
        path.write_bytes(content[:length])
        assert read(path) == ([SETTLE], True)


def test_a_damaged_line_is_known(path: Path) -> None:
    """A line that was changed on the disk, in whatever byte, is not believed, and the others are."""
    written(path, SETTLE, RELEASE)
    content = path.read_bytes()
    for position in range(content.index(b"\n")):
        damaged = bytearray(content)
        damaged[position] ^= 4
        path.write_bytes(damaged)
        assert read(path) == ([RELEASE], False)


def test_a_full_disk_leaves_the_journal_whole(path: Path) -> None:
    """What could be written in part only is taken back, and the next end is readable when there is room again."""
    disk = FullDisk()
    journal = Journal(path, create=disk.create)
    journal.open()
    journal.append([SETTLE])
    disk.room = 50
    with pytest.raises(OSError, match="No space left"):
        journal.append([RELEASE, RELEASE])
    disk.room = 10**9
    journal.append([RELEASE])
    journal.close(keep=True)
    assert read(path) == ([SETTLE, RELEASE], True)


def test_a_journal_is_bounded(path: Path) -> None:
    """Beyond its size it takes nothing until it was cleared."""
    journal = Journal(path, max_bytes=1_000)
    journal.open()
    for _ in range(2):
        with pytest.raises(OSError, match="full"):
            for _ in range(10):
                journal.append([SETTLE])
        assert 0 < path.stat().st_size <= 1_000
        journal.clear()
    journal.close()


def test_a_journal_that_is_not_open_takes_nothing(path: Path) -> None:
    """Before it was opened, and when it was closed, appending fails and clearing does nothing."""
    journal = Journal(path)
    journal.clear()
    with pytest.raises(OSError, match="not open"):
        journal.append([SETTLE])


def test_an_end_that_cannot_be_written_does_not_keep_out_others(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Text that is none is left out and logged, while a number beyond reason is written as it is."""
    insane = Settle(workspace_id="ws", request_id="r4", usage=Usage(10**30), usage_source="provider", owner="a")
    written(path, replace(insane, request_id="r3", upstream_request_id="\ud800"), insane, RELEASE)
    assert read(path) == ([insane, RELEASE], True)
    assert "the end of r3 is kept in memory only" in caplog.text


def test_a_file_that_cannot_be_opened_is_logged(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Something else in the place of a journal keeps nobody from finding the others."""
    written(path)
    (path.parent / "a.jsonl").mkdir()
    assert found(path) == ["core_dead"]
    assert "cannot be opened" in caplog.text
