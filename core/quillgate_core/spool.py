"""An upload on its way through: pieces written to a temporary file, so that it is never whole in memory.

The file is gone when its block ends, whatever happened. How much may be written is the caller's to say.
"""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Any, Final

from quillgate_core.errors import InvalidRequest

_WRITE_BYTES: Final = 256 * 1024


@asynccontextmanager
async def spooled(pieces: AsyncIterator[bytes], *, max_bytes: int, timeout_s: float) -> AsyncIterator[Path]:
    """Writes the pieces to a temporary file and gives its path for the time of the block.

    Raises InvalidRequest when they are too many (`request_too_large`), too slow or none at all.
    """
    file: Any = await asyncio.to_thread(tempfile.NamedTemporaryFile, prefix="quillgate-upload-")
    try:
        try:
            async with asyncio.timeout(timeout_s):
                size = await _write_all(file, pieces, max_bytes)
        except TimeoutError:
            raise InvalidRequest("The file arrived too slowly.", param="file") from None
        if not size:
            raise InvalidRequest("The file is empty.", param="file", code="invalid_value")
        yield Path(file.name)
    finally:
        file.close()  # deletes it


async def _write_all(file: IO[bytes], pieces: AsyncIterator[bytes], max_bytes: int) -> int:
    size = 0
    waiting = bytearray()
    async for piece in pieces:
        size += len(piece)
        if size > max_bytes:
            raise InvalidRequest(
                f"Maximum content size limit ({max_bytes}) exceeded ({size} bytes read).",
                param="file",
                code="request_too_large",
            )
        waiting += piece
        if len(waiting) >= _WRITE_BYTES:
            await asyncio.to_thread(file.write, waiting)
            waiting = bytearray()
    await asyncio.to_thread(file.write, waiting)
    await asyncio.to_thread(file.flush)
    return size
