"""Use cases' way to providers, for tests: real routing over accounts that hold fakes."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from quillgate_core.admission import Admission
from quillgate_core.catalogue import Catalogue, Model
from quillgate_core.draining import Draining
from quillgate_core.metered import SETTLE_WAIT_S, Metered
from quillgate_core.metering import Metering
from quillgate_core.router import Router
from quillgate_core.running import Running
from quillgate_core.upstream import Account


def routed(
    models: Iterable[Model],
    accounts: Iterable[Account],
    metering: Metering,
    *,
    settle_wait_s: float = SETTLE_WAIT_S,
    blocking: Any = None,
    running: Running | None = None,
    draining: Draining | None = None,
    session: Callable[[], str] = str,
    **routing: Any,
) -> tuple[Admission, Metered]:
    """Makes what every use case begins with; `routing` goes to the Router."""
    house: Mapping[str, Account] = {account.provider: account for account in accounts}
    metered = Metered(metering, running=running, draining=draining, settle_wait_s=settle_wait_s)
    router = Router(Catalogue(models, providers=house), house, **routing)
    others = {} if blocking is None else {"blocking": blocking}
    return Admission(router, metered, session=session, **others), metered
