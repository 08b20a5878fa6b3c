"""An upload passes through a temporary file that is always removed."""

import asyncio
from collections.abc import AsyncIterator, Iterable

import pytest

from quillgate_core.errors import InvalidRequest
from quillgate_core.spool import spooled


async def pieces(items: Iterable[bytes]) -> AsyncIterator[bytes]:
    """An upload that arrives at once."""
    for item in items:
        yield item


@pytest.mark.parametrize("size", [1, 999, 1000])
async def test_up_to_the_limit(size: int) -> None:
    """What is within the limit is in the file for the time of the block, and gone afterwards."""
    async with spooled(pieces([b"a" * (size - 1), b"", b"b"]), max_bytes=1000, timeout_s=5) as path:
        assert path.read_bytes() == b"a" * (size - 1) + b"b"
    assert not path.exists()


@pytest.mark.parametrize(
    ("items", "code"), [([b"a" * 1000, b"b"], "request_too_large"), ([], "invalid_value"), ([b""], "invalid_value")]
)
async def test_refused(items: list[bytes], code: str) -> None:
    """One byte too many, and no byte at all, are refused with their codes."""
    with pytest.raises(InvalidRequest) as caught:
        async with spooled(pieces(items), max_bytes=1000, timeout_s=5):
            raise AssertionError("it was accepted")
    assert caught.value.metadata == {"param": "file", "code": code}


async def test_too_slow() -> None:
    """An upload that stops is given up."""

    async def stuck() -> AsyncIterator[bytes]:
        yield b"a"
        await asyncio.Event().wait()

    with pytest.raises(InvalidRequest):
        async with spooled(stuck(), max_bytes=1000, timeout_s=0.01):
            raise AssertionError("it was accepted")


async def test_gone_after_a_failure() -> None:
    """The file is removed also when the block fails."""
    with pytest.raises(RuntimeError):
        async with spooled(pieces([b"a"]), max_bytes=1000, timeout_s=5) as path:
            raise RuntimeError
    assert not path.exists()
