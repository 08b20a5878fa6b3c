"""What a transcription counts: the provider's tokens, or else the length of the sound."""

import pytest

from quillgate.v1.transcription_pb2 import Transcription, TranscriptionEvent, TranscriptionUsage
from quillgate_core.catalogue import Model, ModelUpstream
from quillgate_core.counting import Usage, counted_messages, explain, sane
from quillgate_core.errors import ProviderUnavailable
from quillgate_core.transcription_tally import SoundMeter, TranscriptionTally, settle_answer

TOKENS = TranscriptionUsage(type="tokens", input_tokens=20_000, output_tokens=1, total_tokens=20_001)


def model(**members: int) -> Model:
    """A model that hears."""
    upstreams = (ModelUpstream("p", "m"),)
    return Model("m", 1, 1, upstreams, endpoints=("audio.transcriptions",), **members)


def meter(duration_s: float | None, *, bound_s: float = 7200.0, **members: int) -> SoundMeter:
    """What an upload counts."""
    return SoundMeter(model(**members), duration_s=duration_s, bound_s=bound_s)


@pytest.mark.parametrize(("duration_s", "messages"), [(0.0, 1), (600.0, 1), (600.1, 2), (3601.0, 7)])
def test_started_ten_minutes(duration_s: float, messages: int) -> None:
    """A message is counted for each ten minutes that have begun, at least one, and the answer says how long it was."""
    answer = Transcription(text="x")
    usage, source = settle_answer(answer, meter(duration_s))
    assert (counted_messages(usage), source) == (messages, "estimate")
    assert usage == Usage(minimum_messages=messages)
    assert answer.usage.type == "duration"
    assert answer.usage.seconds >= duration_s


def test_own_period() -> None:
    """The operator may set the period for each model."""
    assert counted_messages(meter(61, audio_seconds_per_message=60).observed()[0]) == 2


def test_tokens_win() -> None:
    """Tokens that the provider reports are counted by the formula, however long the sound is."""
    answer = Transcription(text="x", usage=TOKENS)
    assert settle_answer(answer, meter(36_000)) == (Usage(20_000, 0, 1), "provider")
    assert answer.usage == TOKENS


@pytest.mark.parametrize("tokens", [0, -5])
def test_insane_tokens(tokens: int) -> None:
    """Tokens that say nothing or nonsense are not believed."""
    answer = Transcription(usage=TranscriptionUsage(type="tokens", input_tokens=tokens, output_tokens=0))
    assert settle_answer(answer, meter(601))[0] == Usage(minimum_messages=2)


def test_stated_length() -> None:
    """The provider's length counts only where the upload does not tell its own, and never beyond its bound."""
    assert settle_answer(Transcription(duration=5), meter(601))[0].minimum_messages == 2
    assert settle_answer(Transcription(duration=1201), meter(None))[0].minimum_messages == 3
    assert settle_answer(Transcription(usage=TranscriptionUsage(seconds=601)), meter(None))[0].minimum_messages == 2
    assert settle_answer(Transcription(duration=10**9), meter(None))[0].minimum_messages == 12
    assert settle_answer(Transcription(), meter(None))[0].minimum_messages == 12


def test_stream_keeps_its_end_back() -> None:
    """The last event waits for the settlement; what comes after it is dropped; without it the stream was cut."""
    tally = TranscriptionTally(meter(601), provider="p")
    delta = TranscriptionEvent(type="transcript.text.delta", delta="a")
    done = TranscriptionEvent(type="transcript.text.done", text="a", usage=TOKENS)
    assert tally.take([delta]) == [delta]
    assert tally.usage() == (Usage(minimum_messages=2), "estimate")
    with pytest.raises(ProviderUnavailable):
        tally.finish()
    assert tally.take([done, delta]) == []
    tally.finish()
    assert tally.usage() == (Usage(20_000, 0, 1), "provider")
    assert tally.last() == [done]


def test_minimum_messages() -> None:
    """A usage counts the more of its tokens and its minimum, which is kept within sane bounds."""
    assert counted_messages(Usage(20_000, 0, 0, minimum_messages=1)) == 2
    assert explain(Usage(20_000, 0, 0, minimum_messages=3)).counted_messages == 3
    assert sane(Usage(minimum_messages=-1)) == (Usage(), True)
    assert sane(Usage(minimum_messages=10**9)) == (Usage(minimum_messages=10**6), True)
    assert sane(Usage(1, 0, 1, minimum_messages=5)) == (Usage(1, 0, 1, minimum_messages=5), False)
