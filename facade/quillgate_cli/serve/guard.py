"""What every process of the service does around its work: a log on stderr, and failures in a line each."""

import logging
import os
import sys
from collections.abc import Callable

from quillgate_core.config import ConfigError
from quillgate_core.errors import QuillgateError
from quillgate_core.storage.startup import StartupError
from quillgate_facade.config import FacadeConfigError


def guarded(run: Callable[[], int], *, name: str = "") -> int:
    """Runs with a log that has the process's `name`, and returns the exit code.

    What the operator can mend is told in a line each, without a trace, and ends with 1.
    """
    logging.basicConfig(
        level=os.environ.get("QUILLGATE_LOG_LEVEL", "WARNING").upper(),
        format=f"%(asctime)s %(levelname)s {name and f'{name} '}%(name)s: %(message)s",
        stream=sys.stderr,
    )
    try:
        return run()
    except (ConfigError, FacadeConfigError, StartupError, QuillgateError, OSError) as error:
        for line in str(error).splitlines():
            print(f"quillgate: {line}", file=sys.stderr)
        return 1
