"""Renders a transcription as plain text, SubRip (srt) or WebVTT (vtt), as OpenAI does. Pure."""

from quillgate.v1.transcription_pb2 import Transcription


def render(transcription: Transcription, response_format: str) -> str:
    """Returns the body for one of the formats `text`, `srt` and `vtt`."""
    if response_format == "text":
        return transcription.text.strip() + "\n"
    if response_format == "srt":
        return "".join(f"{number}\n{cue}" for number, cue in enumerate(_cues(transcription, ","), 1))
    return "WEBVTT\n\n" + "".join(_cues(transcription, "."))


def _cues(transcription: Transcription, separator: str) -> list[str]:
    return [
        f"{_time(segment.start, separator)} --> {_time(segment.end, separator)}\n{_text(segment.text)}\n\n"
        for segment in transcription.segments
    ]


def _text(text: str) -> str:
    """A blank line would end the cue, and an arrow begin another."""
    return " ".join(text.split()).replace("-->", "->")


def _time(seconds: float, separator: str) -> str:
    milliseconds = round(max(0.0, seconds) * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{rest // 1000:02d}{separator}{rest % 1000:03d}"
