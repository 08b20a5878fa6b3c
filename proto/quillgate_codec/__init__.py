"""OpenAI's JSON as messages of `quillgate.v1` and back, without loss, and the cause of a failed call."""

from quillgate.v1 import chat_completion_pb2, model_service_pb2
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
]

#: What a client asks: strict.
chat_request = Codec(chat_completion_pb2.ChatCompletionRequest)
#: What a client gets.
chat_answer = Codec(chat_completion_pb2.ChatCompletion, answers=True)
chat_chunk = Codec(chat_completion_pb2.ChatCompletionChunk, answers=True)
#: What a provider sends: lenient, and written back without loss.
provider_chat_answer = Codec(chat_completion_pb2.ChatCompletion, lenient=True)
provider_chat_chunk = Codec(chat_completion_pb2.ChatCompletionChunk, lenient=True)
#: The catalogue.
model = Codec(model_service_pb2.Model)
model_list = Codec(model_service_pb2.ModelList)
