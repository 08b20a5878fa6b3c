"""The requests that this process is serving, and the cut of those whose key or workspace has lost its right to them.

A reservation checks the right once, and a stream may run for ten minutes after it. So the rights of whatever runs are
read again every second, whoever changed them on whichever replica, and what lost them ends with the error that a new
request would get. It must not settle anything, nor know SQL.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Any, Protocol

from quillgate_core.errors import (
    AllowanceExhausted,
    KeyInvalid,
    ModelNotAllowed,
    QuillgateError,
    ScopeMissing,
    WorkspaceDisabled,
)
from quillgate_core.limits import LimitName
from quillgate_core.principal import INFERENCE, Principal
from quillgate_core.reservation import Reservation
from quillgate_core.routing import Candidate


@dataclass(frozen=True, slots=True)
class Standing:
    """What a key may do now, by the database."""

    principal: Principal
    has_ended: bool
    """Whether it is revoked or past its time."""
    is_disabled: bool
    """Whether its workspace is."""
    closed_limit: LimitName | None
    """A limit of 0 messages that refuses whatever draws on it, None without one."""
    reset_time: datetime | None
    """When that limit begins anew."""


class StandingStore(Protocol):
    """Where the standing of keys is read; blocking."""

    def read(self, key_ids: Collection[str]) -> Mapping[str, Standing]:
        """Return the standing of each key that there is; raises Overloaded."""


class Run:
    """One request while it is served: `with run:` frames whatever is awaited of its provider, and can be cut there.

    The block raises `error` once the request is cut, and nothing else of its own. It must not span a `yield`: the task
    that pulls a stream may be another one each time.
    """

    __slots__ = ("_cancelling", "_is_interrupted", "_loop", "_waiting", "error", "key_id", "reservation", "serving")

    def __init__(self, reservation: Reservation, serving: Callable[[], Candidate]) -> None:
        self.reservation = reservation
        self.key_id = reservation.key_id or ""
        self.serving = serving
        self._loop = asyncio.get_running_loop()  # asking for it is a system call, and each piece of a stream enters
        self.error: QuillgateError | None = None
        """Why it was cut, None as long as it was not."""
        self._waiting: asyncio.Task[Any] | None = None
        self._cancelling = 0
        self._is_interrupted = False

    def cut(self, error: QuillgateError) -> None:
        """Ends what is awaited of the provider, now or when it is next awaited; a second cut changes nothing."""
        if self.error is not None:
            return
        self.error = error
        if self._waiting is not None:
            self._is_interrupted = True
            self._waiting.cancel()

    def __enter__(self) -> None:
        if self.error is not None:
            raise self.error
        task = asyncio.current_task(self._loop)
        assert task is not None
        self._waiting, self._cancelling = task, task.cancelling()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task, self._waiting = self._waiting, None
        if not self._is_interrupted:
            return
        assert task is not None
        self._is_interrupted = False
        # Our own cancellation is taken back; one by the caller, who left at the same moment, stands.
        if task.uncancel() <= self._cancelling and isinstance(error, asyncio.CancelledError):
            assert self.error is not None
            raise self.error from None


class Running:
    """The runs of this process that a key pays for; belongs to one event loop."""

    def __init__(self) -> None:
        self._runs: dict[Run, None] = {}

    def enter(self, reservation: Reservation, serving: Callable[[], Candidate]) -> Run:
        """Notes a request whose right was just checked; whoever serves it must `leave`, whatever happens."""
        run = Run(reservation, serving)
        if run.key_id:
            self._runs[run] = None
        return run

    def leave(self, run: Run) -> None:
        """Forgets a request."""
        self._runs.pop(run, None)

    def all(self) -> tuple[Run, ...]:
        """Returns the requests that are being served at this moment."""
        return tuple(self._runs)


class Cutting:
    """Cuts what runs without right; `names_of` returns all names of a model: its id and its aliases."""

    def __init__(
        self,
        running: Running,
        store: StandingStore,
        *,
        blocking: Callable[[Callable[[], Any]], Awaitable[Any]],
        names_of: Callable[[str], Iterable[str]] = lambda model_id: (model_id,),
    ) -> None:
        self._running = running
        self._store = store
        self._blocking = blocking
        self._names_of = names_of

    async def look(self) -> None:
        """Reads the standing of every key that something runs for, and cuts what may not go on; raises Overloaded.

        What begins meanwhile is left for the next time: it was reserved by what may be newer than what is read.
        """
        runs = self._running.all()
        if not runs:
            return
        key_ids = frozenset(run.key_id for run in runs)
        standings = await self._blocking(partial(self._store.read, key_ids))
        for run in runs:
            error = self._objection(run, standings.get(run.key_id))
            if error is not None:
                run.cut(error)

    def _objection(self, run: Run, standing: Standing | None) -> QuillgateError | None:
        """Returns what a new request would be refused with, None for one that is as good as when it was reserved."""
        if standing is None or standing.has_ended:
            return KeyInvalid()
        if standing.is_disabled:
            return WorkspaceDisabled(standing.principal.workspace_id)
        candidate = run.serving()
        if standing.closed_limit is not None and not candidate.account.byok:
            return _closed(standing, standing.closed_limit)
        if standing.principal.key_revision == run.reservation.key_revision:
            return None
        if not standing.principal.holds(INFERENCE):
            return ScopeMissing(INFERENCE)
        model = candidate.model.id
        if not any(standing.principal.may_use(name) for name in self._names_of(model)):
            return ModelNotAllowed(model)
        return None


def _closed(standing: Standing, limit: LimitName) -> AllowanceExhausted:
    reset_time = "" if standing.reset_time is None else standing.reset_time.isoformat().replace("+00:00", "Z")
    whose = "workspace's allowance" if "allowance" in limit else "key's limit"
    period = "month" if "monthly" in limit else "day"
    return AllowanceExhausted(
        "You exceeded your current quota, please check your plan and billing details. "
        f"The {whose} was set to 0 messages a {period} while the request was running.",
        workspace_id=standing.principal.workspace_id,
        limit=limit,
        allowance=0,
        remaining_messages=0,
        reset_time=reset_time,
    )
