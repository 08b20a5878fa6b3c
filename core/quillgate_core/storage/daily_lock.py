"""Locks rows of `daily_message_count` before anything else of their days is touched, in the order of every process."""

import re
from collections.abc import Iterable
from datetime import date
from typing import Final

from sqlalchemy import Connection

from quillgate_core.storage import ledger_sql as sql

#: The ledger's statement, with parameters as a driver of SQLAlchemy takes them.
_LOCK: Final = re.sub(r"\$[12]", "%s", sql.LOCK_DAILY_ROWS.decode())


def lock_days(connection: Connection, days: Iterable[tuple[str, date]]) -> None:
    """Lock the rows of workspaces and days for the rest of the transaction; those that do not exist are passed over."""
    ordered = sorted(set(days))
    columns = ([workspace_id for workspace_id, _ in ordered], [day for _, day in ordered])
    connection.exec_driver_sql(_LOCK, columns).all()
