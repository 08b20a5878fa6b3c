"""Runs the service in this process.

Core, facade and their libraries are imported while the database is being opened: each takes half a second, and the
database mostly waits for PostgreSQL.
"""

import os

from quillgate_cli.serve.importing import import_services
from quillgate_cli.serve.new_keys import NewKeys
from quillgate_cli.serve.opening import database_of, opened
from quillgate_core.config import Config
from quillgate_facade.config import FacadeConfig


def all_in_one(new_keys: NewKeys) -> int:
    """Runs facade and core until a signal comes, and returns the exit code."""
    config, facade_config = Config.from_environ(os.environ), FacadeConfig.from_environ(os.environ)
    with opened(database_of(config), meanwhile=import_services) as database:
        from quillgate_cli.serve.services import AllInOne, run_alone

        run_alone(
            lambda: AllInOne(config, facade_config, database),
            new_keys,
            unready_s=config.unready_s,
            drain_s=config.drain_s,
        )
    return 0


def core_alone(new_keys: NewKeys) -> int:
    """Runs core until a signal comes, and returns the exit code."""
    config = Config.from_environ(os.environ)
    with opened(database_of(config), meanwhile=import_services) as database:
        from quillgate_cli.serve.services import CoreAlone, run_alone

        run_alone(lambda: CoreAlone(config, database), new_keys, config.unready_s, config.drain_s)
    return 0


def facade_alone(target: str) -> int:
    """Runs the facade until a signal comes, and returns the exit code."""
    config = FacadeConfig.from_environ(os.environ)
    import_services()
    from quillgate_cli.serve.services import FacadeAlone, run_alone

    run_alone(lambda: FacadeAlone(config, target), NewKeys(), config.unready_s, config.drain_timeout_s)
    return 0
