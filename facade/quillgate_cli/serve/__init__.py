"""`quillgate serve`: runs the service, all in one or core and facade apart, in one process or in several.

The only part of the CLI that sees the core and the facade; everything else speaks gRPC.

    command.py      the commands and their options
    services.py     what one process runs, from its start to its stop
    single.py       one such process; several.py, several
    supervisor.py   the parent of several; worker.py and child.py are the child, worker_link.py ties them together
    doorman.py      how each gets as many connections as the others
"""

from quillgate_cli.serve.command import app

__all__ = ["app"]
