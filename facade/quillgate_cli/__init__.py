"""The operator's command line: argv to gRPC and back."""
