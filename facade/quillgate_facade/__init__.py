"""The REST side of Quillgate: OpenAI's JSON and server-sent events in front, a gRPC channel to the core behind."""
