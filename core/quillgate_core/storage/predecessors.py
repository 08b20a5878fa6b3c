"""What cores that died on this machine have left in their journals: landed here, and then their open rows recovered.

A process whose journal is free is dead, so nobody has to wait for its lease to run out. This module must not judge an
end: the writer lands each as its own process would have.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

from quillgate_core.errors import Overloaded
from quillgate_core.metering import Metering
from quillgate_core.reservation import StepWriter
from quillgate_core.storage.journal import End, LeftJournal, left_journals

logger = logging.getLogger(__name__)


class Predecessors:
    """Looks after the journals of `directory`; several cores may share it, and one of them inherits each journal.

    `blocking` runs a call in a thread.
    """

    def __init__(
        self,
        directory: Path,
        *,
        writer: StepWriter,
        metering: Metering,
        blocking: Callable[[Callable[[], Any]], Awaitable[Any]],
    ) -> None:
        self._directory = directory
        self._writer = writer
        self._metering = metering
        self._blocking = blocking

    async def inherit(self) -> int:
        """Land what each journal holds, recover its process's other rows, remove it, and return how many there were.

        To be called at the start and every few seconds, never twice at once. Waits as long as the database is away.
        What cannot be finished is left for the next call; raises Overloaded then.
        """
        count = 0
        for left in left_journals(self._directory):
            count += 1
            try:
                await self._inherit(left)
            except OSError as error:
                logger.error("the journal of %s cannot be read now: %s", left.instance_id, error.strerror)
            finally:
                left.close()
        return count

    async def _inherit(self, left: LeftJournal) -> None:
        ends, is_whole = await self._blocking(left.read)
        await self._land(ends)
        recovered = await self._blocking(partial(self._metering.recover_instance, left.instance_id))
        if is_whole:
            await self._blocking(left.remove)
        else:
            aside = await self._blocking(left.set_aside)
            logger.error("lines of a journal cannot be read, their holds were charged: %s", aside)
        if ends or recovered:
            logger.warning("%s died: %d ends landed, %d holds charged", left.instance_id, len(ends), recovered)

    async def _land(self, ends: list[End]) -> None:
        """Wait until all are in the ledger; raises Overloaded when the writer stopped before."""
        outcomes = await asyncio.gather(*[self._writer.submit(end).outcome() for end in ends])
        for end, outcome in zip(ends, outcomes, strict=True):
            if isinstance(outcome, Overloaded):
                raise outcome
            if isinstance(outcome, Exception):
                logger.warning("the end of %s was refused: %s", end.request_id, type(outcome).__name__)
