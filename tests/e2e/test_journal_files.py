"""The journals of a running service: one a core, none where all stopped in order, and no reason not to start."""

import asyncio
from pathlib import Path

import pytest
from service import RunningService, start_service


async def answered(service: RunningService) -> None:
    """Ask the service something about its ledger."""
    tenant = await service.tenant()
    assert await service.daily(tenant) is None


async def test_cores_of_one_directory_have_a_journal_each(database_url: str, tmp_path: Path) -> None:
    """A second core does not take the first one's for a dead process's, and a clean stop leaves nothing."""
    directory = tmp_path / "journal"
    async with start_service(database_url, tmp_path) as first:
        (own,) = directory.iterdir()
        assert own.name == f"{first.core.metering.instance_id}.jsonl"
        async with start_service(database_url, tmp_path, admin_key=first.admin_key) as second:
            await answered(second)
            assert len(list(directory.iterdir())) == 2
        assert list(directory.iterdir()) == [own]
        leases = await first.rows("SELECT instance_id FROM core_instances")
        assert leases == [(first.core.metering.instance_id,)]
    assert list(directory.iterdir()) == []


async def test_a_journal_that_cannot_be_made_does_not_stop_the_start(
    database_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A data directory that takes no journal is logged as an error, and requests are served."""
    (tmp_path / "journal").write_text("in the way")
    async with start_service(database_url, tmp_path) as service:
        await answered(service)
    assert "no journal can be kept" in caplog.text


async def test_damaged_journals_do_not_stop_the_start(database_url: str, tmp_path: Path) -> None:
    """Garbage in a dead core's journal is set aside while the service serves."""
    directory = tmp_path / "journal"
    directory.mkdir()
    (directory / "core_dead.jsonl").write_bytes(b"\x00\xff\n" * 1_000)
    async with start_service(database_url, tmp_path) as service:
        await answered(service)
        async with asyncio.timeout(10):
            while (directory / "core_dead.jsonl").exists():
                await asyncio.sleep(0.02)
    assert [path.name for path in directory.iterdir()] == ["core_dead.corrupt"]
