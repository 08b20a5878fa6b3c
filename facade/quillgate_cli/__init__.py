"""The operator's facade: `quillgate` on the command line, argv to gRPC and back.

It sees the generated stubs and the codec only; `serve` alone may import the core and the HTTP facade.
"""
