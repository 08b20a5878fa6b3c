"""Puts the audit of the ledger together: the part of the composition root that names its concrete classes."""

from collections.abc import Collection

from quillgate_core.ledger_audit import Blocking, LedgerAudit
from quillgate_core.ledger_reconciliation import LedgerReconciliation
from quillgate_core.rpc.ledger_service import LedgerService
from quillgate_core.storage.adjustment_store import SqlAdjustmentStore
from quillgate_core.storage.database import Database
from quillgate_core.storage.entry_store import SqlEntryStore
from quillgate_core.storage.ledger_day_store import SqlLedgerDayStore
from quillgate_core.usage_lookups import UsageLookups


def ledger_service(
    database: Database, lookups: UsageLookups, *, record_keepers: Collection[str], blocking: Blocking
) -> LedgerService:
    """Returns what serves LedgerService; `record_keepers` are the providers that can be asked what a request used."""
    entries, days = SqlEntryStore(database.engine), SqlLedgerDayStore(database.engine)
    adjustments = SqlAdjustmentStore(database.engine)
    reconciliation = LedgerReconciliation(
        entries, days, adjustments, lookups, providers=record_keepers, blocking=blocking
    )
    return LedgerService(LedgerAudit(entries, days, adjustments, blocking=blocking), reconciliation)
