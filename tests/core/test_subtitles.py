"""Subtitles are rendered so that players read them."""

from quillgate.v1.transcription_pb2 import Transcription, TranscriptionSegment
from quillgate_core.subtitles import render

LONG = Transcription(
    text=" Hello. ",
    segments=[TranscriptionSegment(start=3661.0015, end=3662.9996, text=" a\n\nb --> c ")],
)


def test_times_and_text() -> None:
    """Hours are counted, milliseconds are rounded up into seconds, and text cannot end or begin a cue."""
    assert render(LONG, "srt") == "1\n01:01:01,002 --> 01:01:03,000\na b -> c\n\n"
    assert render(LONG, "vtt") == "WEBVTT\n\n01:01:01.002 --> 01:01:03.000\na b -> c\n\n"


def test_nothing_said() -> None:
    """Silence is an empty text, an empty srt and a vtt without cues."""
    silence = Transcription()
    assert [render(silence, name) for name in ("text", "srt", "vtt")] == ["\n", "", "WEBVTT\n\n"]
