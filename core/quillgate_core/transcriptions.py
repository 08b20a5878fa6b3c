"""Transcriptions: spool the upload, check, measure its length, and let `Metered` reserve, serve and settle."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from quillgate.v1.transcription_pb2 import Transcription, TranscriptionEvent, TranscriptionOptions
from quillgate_core.catalogue import Model, Models
from quillgate_core.metered import SETTLE_WAIT_S, Batch, Metered
from quillgate_core.metering import Metering
from quillgate_core.model_access import usable_model
from quillgate_core.principal import INFERENCE, Principal
from quillgate_core.reservation import Receipt, Reservation
from quillgate_core.routing import attempts
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
class _Admitted:
    """A request that is reserved and ready to be sent."""

    reservation: Reservation
    provider: TranscriptionProvider
    task: TranscriptionTask
    meter: SoundMeter


class Transcriptions:
    """The use case behind the transcription RPCs of CompletionService."""

    def __init__(
        self,
        catalogue: Models,
        providers: Mapping[str, TranscriptionProvider],
        metering: Metering,
        *,
        settle_wait_s: float = SETTLE_WAIT_S,
        upload_s: float = UPLOAD_S,
    ) -> None:
        self._catalogue = catalogue
        self._providers = providers
        self._metered = Metered(metering, settle_wait_s=settle_wait_s)
        self._upload_s = upload_s

    async def create(
        self, principal: Principal, request_id: str, options: TranscriptionOptions, audio: AsyncIterator[bytes]
    ) -> tuple[Transcription | str, Receipt]:
        """Answers in one piece, with text for the formats `text`, `srt` and `vtt`; the receipt is as in create_chat.

        `audio` is read to its end first. Raises InvalidRequest, also for more than 25 MiB (`request_too_large`).
        """
        async with self._admit(principal, request_id, options, audio, stream=False) as admitted:
            answer, receipt = await self._metered.answer(
                admitted.reservation,
                lambda: admitted.provider.create_transcription(admitted.task),
                used=lambda answer: settle_answer(answer, admitted.meter),
                observed=admitted.meter.observed()[0],
            )
        wanted = format_of(options)
        return (render(answer, wanted) if wanted in _RENDERED else answer), receipt

    async def stream(
        self, principal: Principal, request_id: str, options: TranscriptionOptions, audio: AsyncIterator[bytes]
    ) -> AsyncGenerator[TranscriptionBatch, None]:
        """Answers in events; the receipt comes with the last batch."""
        async with self._admit(principal, request_id, options, audio, stream=True) as admitted:
            tally = TranscriptionTally(admitted.meter, provider=admitted.provider.name)
            received = admitted.provider.stream_transcription(admitted.task)
            async with aclosing(self._metered.stream(admitted.reservation, received, tally)) as batches:
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
    ) -> AsyncIterator[_Admitted]:
        """Checks what can be checked, reads the upload, and reserves last: until then a refusal costs nothing."""
        model = self._check(principal, options, stream=stream)
        upstream = attempts(model)[0]
        provider = self._providers[upstream.provider]
        async with spooled(audio, max_bytes=MAX_AUDIO_BYTES, timeout_s=self._upload_s) as path:
            meter, longest_s = await asyncio.to_thread(_measure, path, model)
            task = TranscriptionTask(path, asked_options(options), upstream.model)
            provider.check_transcription(task)
            hold = hold_messages(longest_s, options, model)
            reservation = await self._metered.reserve(
                principal,
                request_id,
                endpoint=ENDPOINT,
                model=model.id,
                upstream=provider.name,
                hold_messages=hold,
                min_hold_messages=hold,
            )
            yield _Admitted(reservation, provider, task, meter)

    def _check(self, principal: Principal, options: TranscriptionOptions, *, stream: bool) -> Model:
        principal.require(INFERENCE)
        check_options(options, stream=stream)
        model = usable_model(self._catalogue, principal, options.model)
        check_model(model)
        return model


def _measure(path: Path, model: Model) -> tuple[SoundMeter, float]:
    """Returns what the upload counts and how long it is at most; raises InvalidRequest for what is no sound."""
    if is_text(path):
        raise invalid_sound()
    duration_s, longest_s = read_duration_s(path), bound_s(path.stat().st_size)
    return SoundMeter(model, duration_s=duration_s, bound_s=longest_s), duration_s or longest_s
