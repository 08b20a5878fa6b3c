"""One of several processes that serve behind the same ports; `worker_link.py` starts it and says what it hears.

    python -m quillgate_cli.serve.worker WORDS CONNECTIONS NUMBER all|core|facade [TARGET]

The first two are descriptors of Unix sockets. Everything else comes from the environment, as for a service alone.
"""

import os
import socket
import sys
from functools import partial

from quillgate_cli.serve.guard import guarded
from quillgate_cli.serve.importing import import_services
from quillgate_cli.serve.opening import database_of, opened
from quillgate_core.config import Config
from quillgate_facade.config import FacadeConfig


def main(arguments: list[str]) -> int:
    """Runs until the parent says so, or is gone, and returns the exit code."""
    words, connections, number, shape, *target = arguments
    run = _core if shape in ("all", "core") else _facade
    with socket.socket(fileno=int(words)) as parent, socket.socket(fileno=int(connections)) as passed:
        return guarded(lambda: run(parent, passed, [shape, *target]), name=f"worker {number}")


def _core(parent: socket.socket, passed: socket.socket, shape: list[str]) -> int:
    config = Config.from_environ(os.environ)
    facade_config = FacadeConfig.from_environ(os.environ) if shape == ["all"] else None
    with opened(database_of(config), meanwhile=import_services) as database:
        from quillgate_cli.serve.child import run_under
        from quillgate_cli.serve.services import AllInOne, CoreAlone

        if facade_config is None:
            run_under(parent, lambda: CoreAlone(config, database, shares_port=True), config.unready_s, config.drain_s)
        else:
            make = partial(AllInOne, config, facade_config, database, passed)
            run_under(parent, make, config.unready_s, config.drain_s)
    return 0


def _facade(parent: socket.socket, passed: socket.socket, shape: list[str]) -> int:
    config = FacadeConfig.from_environ(os.environ)
    import_services()
    from quillgate_cli.serve.child import run_under
    from quillgate_cli.serve.services import FacadeAlone

    run_under(parent, lambda: FacadeAlone(config, shape[1], passed), config.unready_s, config.drain_timeout_s)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
