"""Follows one transcription, whole or streamed, and knows what it used: tokens or else time. Pure."""

import math
from collections.abc import Iterable

from quillgate.v1.transcription_pb2 import Transcription, TranscriptionEvent, TranscriptionUsage
from quillgate_core.catalogue import Model
from quillgate_core.counting import Usage, sane
from quillgate_core.errors import ProviderUnavailable
from quillgate_core.reservation import UsageSource
from quillgate_core.transcription_rules import duration_messages

DELTA = "transcript.text.delta"
SEGMENT = "transcript.text.segment"
DONE = "transcript.text.done"


class SoundMeter:
    """What one upload counts. `duration_s` is None where its length cannot be read; `bound_s` then stands in."""

    def __init__(self, model: Model, *, duration_s: float | None, bound_s: float) -> None:
        self._model = model
        self._duration_s = duration_s
        self._bound_s = bound_s

    def used(self, usage: TranscriptionUsage, stated_s: float = 0.0) -> tuple[Usage, UsageSource]:
        """Returns what a whole answer used, and writes it into `usage` if the provider did not say.

        `stated_s` is the length that the provider stated; it counts only where the upload does not tell, so that
        answers with and without it count the same.
        """
        tokens = Usage(usage.input_tokens, 0, usage.output_tokens)
        if tokens != Usage() and not sane(tokens)[1]:
            return tokens, "provider"
        stated_s = max(stated_s, usage.seconds)
        if self._duration_s is None and 0 < stated_s <= self._bound_s:
            used, source = self._by_time(stated_s), "provider"
        else:
            stated_s, (used, source) = stated_s or self._length_s(), self.observed()
        if not usage.type:
            usage.type = "duration"
            usage.seconds = math.ceil(stated_s)
        return used, source  # type: ignore[return-value]

    def observed(self) -> tuple[Usage, UsageSource]:
        """Returns what is charged without a word of the provider: the length of the upload."""
        return self._by_time(self._length_s()), "estimate"

    def _length_s(self) -> float:
        return self._bound_s if self._duration_s is None else self._duration_s

    def _by_time(self, duration_s: float) -> Usage:
        return Usage(minimum_messages=duration_messages(duration_s, self._model))


def settle_answer(answer: Transcription, meter: SoundMeter) -> tuple[Usage, UsageSource]:
    """Returns what a whole answer used; its `usage` says so afterwards."""
    return meter.used(answer.usage, answer.duration)


class TranscriptionTally:
    """The state of one stream; the event that ends it is kept back until it is settled."""

    def __init__(self, meter: SoundMeter, *, provider: str) -> None:
        self._meter = meter
        self._provider = provider
        self._done: TranscriptionEvent | None = None
        self.started = False
        self.upstream_id = ""

    def take(self, events: Iterable[TranscriptionEvent]) -> list[TranscriptionEvent]:
        """Returns the events to pass on now; may be none."""
        passed = []
        for event in events:
            if event.type == DONE:
                self._done = event
            elif self._done is None:
                passed.append(event)
        self.started = self.started or bool(passed)
        return passed

    def finish(self) -> None:
        """Raises ProviderUnavailable for a stream that ended before it was whole."""
        if self._done is None:
            raise ProviderUnavailable(
                "The provider ended the transcription before it was complete.", provider=self._provider
            )

    def usage(self) -> tuple[Usage, UsageSource]:
        """Returns what was used so far."""
        return self._meter.observed() if self._done is None else self._meter.used(self._done.usage)

    def last(self) -> list[TranscriptionEvent]:
        """Returns the event with the whole text and the usage."""
        return [] if self._done is None else [self._done]

    def failure(self, error: Exception) -> list[TranscriptionEvent]:
        """Returns nothing: an error after events is the caller's to tell."""
        return []
