"""A program that starts cores which die at a failpoint: one child for each line of JSON that it reads.

    {"name": "committed", "hit": 2, "database_url": …, "data_dir": …, "pepper_file": …, "catalogue": …}

It answers with a line, the gRPC address of the child or "died", and the child writes `reached` into its data directory
when it kills itself. SIGUSR1 makes a child renew its lease, SIGUSR2 recover what the core "dead" has left. Everything
is imported once, before the children are forked, and nothing else is done in the parent: gRPC and threads would not
survive the fork.
"""

import asyncio
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from quillgate_core.app import Core
from quillgate_core.config import Config
from quillgate_core.storage.database import Database


class Doom:
    """Kills this process without a word, like kill -9, when a failpoint is come by for the n-th time."""

    def __init__(self, name: str, hit: int, reached: Path) -> None:
        self._name = name
        self._left = hit
        self._reached = os.open(reached, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        self._lock = threading.Lock()

    def __call__(self, name: str) -> None:
        if name != self._name:
            return
        with self._lock:
            self._left -= 1
            if self._left == 0:
                os.write(self._reached, name.encode())
                os.kill(os.getpid(), signal.SIGKILL)


async def serve(asked: dict[str, Any], say: Callable[[str], None]) -> None:
    """Serve until death."""
    data_dir = Path(asked["data_dir"])
    config = Config.from_environ({"QUILLGATE_CONFIG": asked["catalogue"], "QUILLGATE_GRPC_ADDRESS": "127.0.0.1:0"})
    pepper_file = Path(asked["pepper_file"])
    with Database(asked["database_url"], data_dir=data_dir, pepper_file=pepper_file) as database:
        core = Core(config, database, failpoint=Doom(asked["name"], asked["hit"], data_dir / "reached"))
        await core.start()
        loop = asyncio.get_running_loop()
        renew = partial(loop.run_in_executor, None, core.metering.renew_lease)
        recover = partial(loop.run_in_executor, None, core.metering.recover_instance, "dead")
        loop.add_signal_handler(signal.SIGUSR1, renew)
        loop.add_signal_handler(signal.SIGUSR2, recover)
        say(core.address)
        await asyncio.Event().wait()


def child(line: str, said: int) -> None:
    """Serve in a forked child; its end is seen by the closing of the pipe."""
    with os.fdopen(said, "w") as pipe:
        asyncio.run(serve(json.loads(line), lambda address: print(address, file=pipe, flush=True)))


def main() -> None:
    """Fork a child for each line, and tell its process id and its address."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        heard, said = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(heard)
            try:
                child(line, said)
            finally:
                os._exit(1)
        os.close(said)
        with os.fdopen(heard) as pipe:
            print(pid, pipe.readline().strip() or "died", flush=True)


if __name__ == "__main__":
    main()
