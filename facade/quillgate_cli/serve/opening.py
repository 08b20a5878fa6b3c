"""Opens the database, while something else is done: most of the time it only waits for PostgreSQL."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

from quillgate_core.config import Config
from quillgate_core.storage.database import Database


def database_of(config: Config, *, cores: int = 1) -> Database:
    """Returns the database that the settings name, not yet open."""
    return Database(
        config.database_url.reveal(),
        data_dir=config.data_dir,
        pepper_file=config.pepper_file,
        master_key_file=config.master_key_file,
        master_key=config.master_key,
        cores=cores,
    )


@contextmanager
def opened(database: Database, *, meanwhile: Callable[[], object]) -> Iterator[Database]:
    """Opens the database in a thread while it does `meanwhile`; closes it at the end of the block, whatever failed."""
    with ExitStack() as stack:
        with ThreadPoolExecutor(1, thread_name_prefix="quillgate-opening") as pool:
            opening = pool.submit(stack.enter_context, database)
            meanwhile()
        yield opening.result()
