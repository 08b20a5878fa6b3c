"""Transcriptions: spool the upload, check, measure its length, and let `Metered` reserve, serve and settle."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from quillgate.v1.transcription_pb2 import Transcription, TranscriptionEvent, TranscriptionOptions
from quillgate_core.admission import Admission, Ask
from quillgate_core.catalogue import Model
from quillgate_core.errors import InvalidRequest
from quillgate_core.failover import Failover
from quillgate_core.metered import Batch, Metered
from quillgate_core.principal import INFERENCE, Principal
from quillgate_core.reservation import Receipt, Reservation
from quillgate_core.routing import Candidate
from quillgate_core.sound import bound_s, is_text, read_duration_s
from quillgate_core.spool import spooled
from quillgate_core.subtitles import render
from quillgate_core.transcription_rules import (
    ENDPOINT,
    asked_options,
    check_model,
    check_options,
    format_of,
    hold_messages,
    invalid_sound,
)
from quillgate_core.transcription_tally import SoundMeter, TranscriptionTally, settle_answer
from quillgate_core.upstream import TranscriptionProvider, TranscriptionTask

MAX_AUDIO_BYTES = 25 * 1024 * 1024
"""Most bytes of an upload, as OpenAI has it."""

UPLOAD_S = 600.0
"""How long an upload may take to arrive, in seconds."""

TranscriptionBatch = Batch[TranscriptionEvent]
"""Events that are passed on at once."""

_RENDERED = frozenset({"text", "srt", "vtt"})


@dataclass(frozen=True, slots=True)
class _SoundHold:
    """What an upload counts at most: its length says it, and no output limit makes it less."""

    hold_messages: int
    output_tokens: int = 0
    lowered_output_tokens: None = None

    hold_tokens = 0
    min_hold_tokens = 0

    @property
    def min_hold_messages(self) -> int:
        """All of it."""
        return self.hold_messages

    def output_tokens_within(self, held_messages: int, held_tokens: int | None = None) -> None:
        """Knows no limit."""


@dataclass(frozen=True, slots=True)
class _SoundPlan:
    """An upload that is ready to be sent to one candidate."""

    provider: TranscriptionProvider
    task: TranscriptionTask
    meter: SoundMeter
    tally: TranscriptionTally


class Transcriptions:
    """The use case behind the transcription RPCs of CompletionService."""

    def __init__(self, admission: Admission, metered: Metered, *, upload_s: float = UPLOAD_S) -> None:
        self._admission = admission
        self._metered = metered
        self._upload_s = upload_s

    async def create(
        self, principal: Principal, request_id: str, options: TranscriptionOptions, audio: AsyncIterator[bytes]
    ) -> tuple[Transcription | str, Receipt]:
        """Answers in one piece, with text for the formats `text`, `srt` and `vtt`; the receipt is as in create_chat.

        `audio` is read to its end first. Raises InvalidRequest, also for more than 25 MiB (`request_too_large`).
        """
        async with self._admit(principal, request_id, options, audio, stream=False) as (reservation, failover):
            answer, receipt = await self._metered.answer(
                reservation,
                failover,
                lambda plan: plan.provider.create_transcription(plan.task),
                used=lambda answer: settle_answer(answer, failover.plan.meter),
                observed=failover.plan.meter.observed()[0],
            )
        wanted = format_of(options)
        return (render(answer, wanted) if wanted in _RENDERED else answer), receipt

    async def stream(
        self, principal: Principal, request_id: str, options: TranscriptionOptions, audio: AsyncIterator[bytes]
    ) -> AsyncGenerator[TranscriptionBatch, None]:
        """Answers in events; the receipt comes with the last batch."""
        async with self._admit(principal, request_id, options, audio, stream=True) as (reservation, failover):
            answered = self._metered.stream(
                reservation, failover, lambda plan: plan.provider.stream_transcription(plan.task)
            )
            async with aclosing(answered) as batches:
                async for batch in batches:
                    yield batch

    @asynccontextmanager
    async def _admit(
        self,
        principal: Principal,
        request_id: str,
        options: TranscriptionOptions,
        audio: AsyncIterator[bytes],
        *,
        stream: bool,
    ) -> AsyncIterator[tuple[Reservation, Failover[_SoundPlan]]]:
        """Checks what can be checked, reads the upload, and reserves last: until then a refusal costs nothing."""
        principal.require(INFERENCE)
        check_options(options, stream=stream)
        (model,) = self._admission.models(principal, [options.model])
        check_model(model)
        async with spooled(audio, max_bytes=MAX_AUDIO_BYTES, timeout_s=self._upload_s) as path:
            meter, longest_s = await asyncio.to_thread(_measure, path, model)
            ask = Ask(
                principal,
                request_id,
                ENDPOINT,
                (model,),
                hold=lambda candidate: _SoundHold(hold_messages(longest_s, options, candidate.model)),
                plan=lambda candidate, _: _plan(candidate, path, options, meter),
            )
            yield await self._admission.admit(ask)


def _plan(candidate: Candidate, path: Path, options: TranscriptionOptions, meter: SoundMeter) -> _SoundPlan:
    provider = candidate.account.transcriptions
    if provider is None:
        raise InvalidRequest(
            f"The provider `{candidate.upstream.provider}` does not hear.", param="model", code="unsupported_value"
        )
    task = TranscriptionTask(path, asked_options(options), candidate.upstream.model)
    provider.check_transcription(task)
    return _SoundPlan(provider, task, meter, TranscriptionTally(meter, provider=provider.name))


def _measure(path: Path, model: Model) -> tuple[SoundMeter, float]:
    """Returns what the upload counts and how long it is at most; raises InvalidRequest for what is no sound."""
    if is_text(path):
        raise invalid_sound()
    duration_s, longest_s = read_duration_s(path), bound_s(path.stat().st_size)
    return SoundMeter(model, duration_s=duration_s, bound_s=longest_s), duration_s or longest_s
