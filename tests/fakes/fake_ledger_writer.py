"""A ledger of a few lines in memory, behind metering's writer: it answers as the real one, or stalls when told."""

import asyncio
from dataclasses import dataclass, field
from datetime import date

from quillgate_core.counting import Usage, counted_messages
from quillgate_core.reservation import Outcome, Receipt, Release, Reservation, Reserve, Settle, Step, UsageSource

DAY = date(2030, 1, 1)


@dataclass
class FakeLedgerWriter:
    """Notes the steps in `steps`, in order, and in `answered` those whose answer was waited for.

    `left_messages` caps what a reserve gets. A kind of step in `stalls` is answered when its event is set; one in
    `refusals` is answered with the exception.
    """

    left_messages: int = 10**9
    is_replayed: bool = False
    stalls: dict[type[Step], asyncio.Event] = field(default_factory=dict)
    refusals: dict[type[Step], Exception] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    answered: list[Step] = field(default_factory=list)
    waiting: asyncio.Event = field(default_factory=asyncio.Event)

    def submit(self, step: Step) -> "_Ticket":
        """Note the step, which lands from now on whatever becomes of the wait."""
        self.steps.append(step)
        return _Ticket(self, step)

    def post(self, step: Settle | Release) -> None:
        """Note the step."""
        self.steps.append(step)

    @property
    def ends(self) -> list[Settle | Release]:
        """The steps that end a reservation."""
        return [step for step in self.steps if isinstance(step, Settle | Release)]

    def answer(self, step: Step) -> Outcome:
        """What the ledger says."""
        self.answered.append(step)
        if type(step) in self.refusals:
            return self.refusals[type(step)]
        if isinstance(step, Reserve):
            held = min(step.hold_messages, self.left_messages)
            return Reservation(
                step.workspace_id,
                step.request_id,
                DAY,
                held,
                "open",
                self.left_messages - held,
                self.is_replayed,
                key_id=step.key_id,
                model=step.model,
                key_revision=step.key_revision or 0,
            )
        assert isinstance(step, Settle | Release)
        usage = step.usage if isinstance(step, Settle) else Usage()
        source: UsageSource = step.usage_source if isinstance(step, Settle) else ""
        count = counted_messages(usage) if isinstance(step, Settle) else 0
        return Receipt(step.workspace_id, step.request_id, DAY, count, usage, source, 5)


class _Ticket:
    def __init__(self, writer: FakeLedgerWriter, step: Step) -> None:
        self._writer = writer
        self._step = step

    async def outcome(self) -> Outcome:
        stall = self._writer.stalls.get(type(self._step))
        if stall is not None:
            self._writer.waiting.set()
            await stall.wait()
        else:
            await asyncio.sleep(0)
        return self._writer.answer(self._step)
