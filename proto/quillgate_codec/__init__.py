"""OpenAI's JSON as messages of `quillgate.v1` and back, without loss, and the cause of a failed call."""

from quillgate.v1 import (
    chat_completion_pb2,
    model_service_pb2,
    response_pb2,
    text_completion_pb2,
    transcription_pb2,
)
from quillgate_codec.codec import MAX_DEPTH, Codec, load_json
from quillgate_codec.error_info import error_info
from quillgate_codec.json_error import JsonError

__all__ = [
    "MAX_DEPTH",
    "Codec",
    "JsonError",
    "chat_answer",
    "chat_chunk",
    "chat_request",
    "error_info",
    "load_json",
    "model",
    "model_list",
    "provider_chat_answer",
    "provider_chat_chunk",
    "provider_response",
    "provider_response_event",
    "provider_text_completion",
    "provider_transcription",
    "provider_transcription_event",
    "response",
    "response_event",
    "response_item",
    "response_item_page",
    "response_request",
    "stored_response",
    "text_completion",
    "text_completion_request",
    "transcription",
    "transcription_event",
]

#: What a client asks: strict.
chat_request = Codec(chat_completion_pb2.ChatCompletionRequest)
text_completion_request = Codec(text_completion_pb2.TextCompletionRequest)
response_request = Codec(response_pb2.ResponseRequest)
#: What a client gets.
chat_answer = Codec(chat_completion_pb2.ChatCompletion, answers=True)
chat_chunk = Codec(chat_completion_pb2.ChatCompletionChunk, answers=True)
text_completion = Codec(text_completion_pb2.TextCompletion, answers=True)
response = Codec(response_pb2.Response, answers=True)
response_event = Codec(response_pb2.ResponseEvent, answers=True)
response_item_page = Codec(response_pb2.ResponseItemPage, answers=True)
transcription = Codec(transcription_pb2.Transcription, answers=True)
transcription_event = Codec(transcription_pb2.TranscriptionEvent, answers=True)
#: What a provider sends: lenient, and written back without loss.
provider_chat_answer = Codec(chat_completion_pb2.ChatCompletion, lenient=True)
provider_chat_chunk = Codec(chat_completion_pb2.ChatCompletionChunk, lenient=True)
provider_text_completion = Codec(text_completion_pb2.TextCompletion, lenient=True)
provider_response = Codec(response_pb2.Response, lenient=True)
provider_response_event = Codec(response_pb2.ResponseEvent, lenient=True)
provider_transcription = Codec(transcription_pb2.Transcription, lenient=True)
provider_transcription_event = Codec(transcription_pb2.TranscriptionEvent, lenient=True)
#: What is kept.
stored_response = Codec(response_pb2.Response, lenient=True)
response_item = Codec(response_pb2.ResponseItem, lenient=True)
#: The catalogue.
model = Codec(model_service_pb2.Model)
model_list = Codec(model_service_pb2.ModelList)
