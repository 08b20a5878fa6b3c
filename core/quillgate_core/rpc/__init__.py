"""The servicers, one file per .proto service, and the gate before them. The only place in core that imports grpc."""
