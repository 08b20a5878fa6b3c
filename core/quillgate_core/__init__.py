"""The gRPC server of Quillgate: keys, metering, routing and providers. Start reading at `app.py`."""
