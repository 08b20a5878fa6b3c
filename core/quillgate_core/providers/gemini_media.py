"""Images, documents, sounds and videos of a chat message as Gemini's `inlineData` and `fileData` parts. Pure.

    data: URL in base64                     inlineData      {mimeType, data}
    https: or gs: URL                       fileData        {fileUri}, which Gemini fetches itself
    https: URL as the id of a file          fileData        what its Files API calls a file's `uri`

Since 2026 Gemini fetches public and signed https URLs and registered gs: ones (ai.google.dev: File input methods); what
it cannot fetch it refuses, in words that the caller sees. This gateway fetches nothing.
"""

from typing import Any, Final

from quillgate.v1.chat_completion_pb2 import ContentPart, FileInput, InputAudio
from quillgate_core.errors import InvalidRequest
from quillgate_core.providers.extra_members import extra_members

_FETCHED: Final = ("https://", "gs://")
_MIME_TYPES: Final = {
    "bmp": "image/bmp",
    "gif": "image/gif",
    "heic": "image/heic",
    "heif": "image/heif",
    "jpeg": "image/jpeg",
    "jpg": "image/jpeg",
    "png": "image/png",
    "webp": "image/webp",
    "pdf": "application/pdf",
    "css": "text/css",
    "csv": "text/csv",
    "html": "text/html",
    "json": "application/json",
    "md": "text/markdown",
    "txt": "text/plain",
    "xml": "text/xml",
    "aac": "audio/aac",
    "aiff": "audio/aiff",
    "flac": "audio/flac",
    "m4a": "audio/mp4",
    "mp3": "audio/mp3",
    "ogg": "audio/ogg",
    "opus": "audio/opus",
    "wav": "audio/wav",
    "3gp": "video/3gpp",
    "avi": "video/x-msvideo",
    "flv": "video/x-flv",
    "mov": "video/quicktime",
    "mp4": "video/mp4",
    "mpeg": "video/mpeg",
    "mpg": "video/mpg",
    "webm": "video/webm",
    "wmv": "video/wmv",
}
"""By the end of a name. A table of our own: the interpreter's differs from machine to machine."""


def media_part(part: ContentPart, param: str) -> dict[str, Any]:
    """Returns the part for an image, a sound, a document or a video at `param`; raises InvalidRequest for others."""
    if part.type == "image_url":
        return _of_url(part.image_url.url, f"{param}.image_url.url")
    if part.type == "input_audio":
        return _of_audio(part.input_audio, f"{param}.input_audio")
    if part.type == "file":
        return _of_file(part.file, f"{param}.file")
    if part.type == "video_url":
        return _of_video(part, f"{param}.video_url")
    kinds = "'text', 'refusal', 'image_url', 'input_audio', 'file', 'video_url'"
    message = f"Invalid value: '{part.type[:100]}'. This model's provider supports: {kinds}."
    raise InvalidRequest(message, param=f"{param}.type", code="unsupported_value")


def _of_url(url: str, param: str) -> dict[str, Any]:
    if url.startswith("data:"):
        return _of_data_url(url, param)
    if url.startswith(_FETCHED):
        return _fetched(url)
    raise _invalid(param, "expected a `data:` URL in base64 or an https URL")


def _of_data_url(url: str, param: str) -> dict[str, Any]:
    head, comma, data = url.partition(",")
    mime_type, *parameters = head.removeprefix("data:").split(";")
    if not comma or not data or "/" not in mime_type or "base64" not in parameters:
        raise _invalid(param, "a `data:` URL must name a media type and hold base64")
    return _inline(mime_type, data)


def _of_audio(audio: InputAudio, param: str) -> dict[str, Any]:
    if audio.data.startswith("data:"):
        return _of_data_url(audio.data, f"{param}.data")
    mime_type = _MIME_TYPES.get(audio.format, f"audio/{audio.format}")
    if not audio.data:
        raise _invalid(f"{param}.data", "expected base64")
    if not mime_type.startswith("audio/") or not audio.format.isalnum():
        raise _invalid(f"{param}.format", "expected the name of an audio format such as 'wav' or 'mp3'")
    return _inline(mime_type, audio.data)


def _of_file(file: FileInput, param: str) -> dict[str, Any]:
    if file.HasField("file_data"):
        data = file.file_data
        if data.startswith(("data:", *_FETCHED)):
            return _of_url(data, f"{param}.file_data")
        mime_type = _mime_type_of(file.filename)
        if data and mime_type and ":" not in data:  # bare base64, as some clients send it
            return _inline(mime_type, data)
        raise _invalid(f"{param}.file_data", "expected a `data:` URL in base64")
    if file.file_id.startswith("https://"):
        return _fetched(file.file_id)
    message = "This model's provider knows a file by its `https:` URI only; send its content in `file_data`."
    raise InvalidRequest(message, param=f"{param}.file_id", code="unsupported_value")


def _of_video(part: ContentPart, param: str) -> dict[str, Any]:
    """OpenRouter's form of a video: `{"video_url": {"url": ...}}`."""
    value = extra_members(part.extra_json, param.rpartition(".")[0]).get("video_url")
    url = value.get("url") if type(value) is dict else value
    if type(url) is not str:
        raise _invalid(param, "expected an object with a `url`")
    return _of_url(url, f"{param}.url")


def _inline(mime_type: str, data: str) -> dict[str, Any]:
    return {"inlineData": {"mimeType": mime_type, "data": data}}


def _fetched(url: str) -> dict[str, Any]:
    mime_type = _mime_type_of(url.partition("?")[0].partition("#")[0])
    return {"fileData": {"mimeType": mime_type, "fileUri": url} if mime_type else {"fileUri": url}}


def _mime_type_of(name: str) -> str:
    return _MIME_TYPES.get(name.rpartition(".")[2].lower(), "")


def _invalid(param: str, problem: str) -> InvalidRequest:
    return InvalidRequest(f"Invalid value for '{param}': {problem}.", param=param, code="invalid_value")
