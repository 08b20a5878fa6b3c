"""The composition root: from a Config to a running core and back. The only file that names concrete classes."""

import asyncio
import inspect
import logging
import random
import uuid
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection

from quillgate.v1 import (
    catalogue_service_pb2_grpc,
    completion_service_pb2_grpc,
    key_service_pb2_grpc,
    metering_service_pb2_grpc,
    model_service_pb2_grpc,
    provider_credential_service_pb2_grpc,
    response_service_pb2_grpc,
    workspace_service_pb2_grpc,
)
from quillgate_core.admission import Admission
from quillgate_core.catalogue_file import ECHO
from quillgate_core.completions import Completions
from quillgate_core.config import Config
from quillgate_core.discovery import Discovery
from quillgate_core.errors import QuillgateError
from quillgate_core.keys import DEFAULT_SCOPES, Keys
from quillgate_core.late_truth import LateTruth
from quillgate_core.live_catalogue import LiveCatalogue
from quillgate_core.metered import Metered
from quillgate_core.metering import Metering
from quillgate_core.model_switches import ModelSwitches
from quillgate_core.principal import PLATFORM_ADMIN, Principal
from quillgate_core.provider_credentials import ProviderCredentials
from quillgate_core.providers import pocketsphinx
from quillgate_core.providers.accounts import make_account
from quillgate_core.providers.echo import Echo
from quillgate_core.providers.http_pool import HttpPool
from quillgate_core.responses import Responses
from quillgate_core.router import Router
from quillgate_core.rpc.call import current_idempotency, current_session
from quillgate_core.rpc.capacity import Capacity
from quillgate_core.rpc.catalogue_service import CatalogueService
from quillgate_core.rpc.completion_service import CompletionService
from quillgate_core.rpc.in_process import InProcessChannel, InProcessServer
from quillgate_core.rpc.interceptor import CallInterceptor
from quillgate_core.rpc.key_service import KeyService
from quillgate_core.rpc.metering_service import MeteringService
from quillgate_core.rpc.model_service import ModelService
from quillgate_core.rpc.provider_credential_service import ProviderCredentialService
from quillgate_core.rpc.response_service import ResponseService
from quillgate_core.rpc.usage_views_service import UsageViewsService
from quillgate_core.rpc.workspace_service import WorkspaceService
from quillgate_core.storage.adjustment_store import SqlAdjustmentStore
from quillgate_core.storage.catalogue_store import PostgresCatalogueStore
from quillgate_core.storage.daily_store import SqlDailyStore
from quillgate_core.storage.database import Database
from quillgate_core.storage.export_store import SqlExportStore
from quillgate_core.storage.key_store import PostgresKeyStore
from quillgate_core.storage.lease_store import SqlLeaseStore
from quillgate_core.storage.ledger import Ledger, connect_ledger
from quillgate_core.storage.provider_credential_store import PostgresProviderCredentialStore
from quillgate_core.storage.response_store import PostgresResponseStore
from quillgate_core.storage.usage_store import SqlUsageStore
from quillgate_core.storage.workspace_store import PostgresWorkspaceStore
from quillgate_core.storage.writer import GroupedWriter
from quillgate_core.stored_responses import StoredResponses
from quillgate_core.text_completions import TextCompletions
from quillgate_core.transcriptions import Transcriptions
from quillgate_core.upstream import Account, ModelLister
from quillgate_core.usage_views import UsageViews
from quillgate_core.workspaces import Workspaces

log = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 40 * 1024 * 1024
MAX_METADATA_BYTES = 16 * 1024
CAPACITY_WAIT_S = 0.1
DATABASE_THREADS = 8
LEASE_RENEW_S = 10.0
RECOVER_S = 5.0
LAST_USED_FLUSH_S = 30.0
PURGE_S = 3_600.0
OWN_KEYS_POLL_S = 1.0
LATE_TRUTH_S = 10.0
WRITER_CLOSE_S = 10.0
CATALOGUE_POLL_S = 1.0
DISCOVERY_START_S = 30.0
DISCOVERY_LOOK_S = 60.0

SERVICES = (
    "quillgate.v1.CatalogueService",
    "quillgate.v1.CompletionService",
    "quillgate.v1.KeyService",
    "quillgate.v1.MeteringService",
    "quillgate.v1.ModelService",
    "quillgate.v1.ProviderCredentialService",
    "quillgate.v1.ResponseService",
    "quillgate.v1.WorkspaceService",
)

_GRPC_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ("grpc.so_reuseport", 0),
)


class Core:
    """A core that serves gRPC on `address` and in this process on `channel`; `start` and `stop` frame its life."""

    def __init__(self, config: Config, database: Database) -> None:
        self._config = config
        self._threads = ThreadPoolExecutor(DATABASE_THREADS, thread_name_prefix="quillgate-database")
        self._writer = GroupedWriter(connect=partial(connect_ledger, database.url), ledger=Ledger())
        self.metering = Metering(
            writer=self._writer,
            daily_store=SqlDailyStore(database.engine),
            lease_store=SqlLeaseStore(database.engine),
            instance_id=f"core_{uuid.uuid4().hex}",
            idempotency=current_idempotency,
        )
        self._usage_views = UsageViews(
            SqlUsageStore(database.engine), SqlExportStore(database.engine), SqlDailyStore(database.engine)
        )
        self.keys = Keys(PostgresKeyStore(database.engine), pepper=database.pepper)
        self.workspaces = Workspaces(PostgresWorkspaceStore(database.engine))
        self._response_store = PostgresResponseStore(database.engine, timedelta(days=config.response_retention_days))
        self.stored_responses = StoredResponses(self._response_store)
        self._pool = HttpPool()
        self._accounts = _accounts(config, self._pool)
        self.provider_credentials = ProviderCredentials(
            PostgresProviderCredentialStore(database.engine),
            database.master_keys,
            {provider.name: provider for provider in config.byok_providers},
            open_account=lambda provider: make_account(provider, self._pool, byok=True),
            blocking=self._blocking,
            is_allowed_host=config.catalogue.is_allowed_host,
        )
        catalogue_store = PostgresCatalogueStore(database.engine)
        self._catalogue = LiveCatalogue(config.catalogue, providers=self._accounts, store=catalogue_store)
        self._switches = ModelSwitches(self._catalogue, catalogue_store)
        self._discovery = Discovery(
            self._catalogue, catalogue_store, _listers(config, self._accounts), blocking=self._blocking
        )
        self._router = Router(
            self._catalogue,
            self._accounts,
            own_keys=self.provider_credentials,
            max_attempts=config.max_attempts,
        )
        self._late_truth = LateTruth(
            SqlAdjustmentStore(database.engine),
            self._accounts,
            self.provider_credentials,
            providers=_record_keepers(config, self._pool),
            blocking=self._blocking,
        )
        self._health = HealthServicer()
        self._interceptor = CallInterceptor(
            self.keys,
            self._threads,
            completions=Capacity(config.max_completions, wait_s=CAPACITY_WAIT_S),
            admin=Capacity(config.max_admin_calls, wait_s=CAPACITY_WAIT_S),
        )
        self._local = InProcessServer(self._interceptor)
        self._server: grpc.aio.Server | None = None
        self._chores: list[asyncio.Task[None]] = []
        self.channel = InProcessChannel(self._local)
        self.address = ""

    async def start(self) -> None:
        """Starts the writer, the lease, the chores and the gRPC server; raises OSError if its address is taken."""
        self._writer.start()
        await self._blocking(self.metering.renew_lease)
        await self._blocking(self.provider_credentials.refresh)
        await self._once(self._catalogue.refresh)
        self._server = grpc.aio.server(interceptors=(self._interceptor,), options=_GRPC_OPTIONS)
        for server in (self._server, self._local):
            self._add_services(server)
        reflection.enable_server_reflection((*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server)
        self.address = await self._listen(self._server)
        self._chores = [
            asyncio.create_task(self._every(LEASE_RENEW_S, self.metering.renew_lease)),
            asyncio.create_task(self._every(RECOVER_S, self.metering.recover)),
            asyncio.create_task(self._every(LAST_USED_FLUSH_S, self.keys.flush_last_used)),
            asyncio.create_task(self._every(OWN_KEYS_POLL_S, self.provider_credentials.refresh)),
            asyncio.create_task(self._every(PURGE_S, self.stored_responses.purge)),
            asyncio.create_task(self._every(CATALOGUE_POLL_S, self._catalogue.refresh)),
            asyncio.create_task(self._every(LATE_TRUTH_S, self._late_truth.learn)),
        ]
        if self._config.discovery_s:
            self._chores.append(asyncio.create_task(self._discover(self._config.discovery_s)))

    async def drain(self) -> None:
        """Says through the health service that no new requests should come; those that come are still served."""
        await self._health.enter_graceful_shutdown()

    async def stop(self, grace_s: float) -> None:
        """Lets running RPCs finish for `grace_s` seconds, cancels the rest, and lands every settlement."""
        await self.drain()
        if self._server is not None:
            await self._server.stop(grace_s)
        for chore in self._chores:
            chore.cancel()
        await asyncio.gather(*self._chores, return_exceptions=True)
        await self._pool.close()
        await self._blocking(partial(self._writer.close, WRITER_CLOSE_S))
        await self._once(self.keys.flush_last_used)
        await self._blocking(self.metering.end_lease)
        self._threads.shutdown()

    async def issue_key(
        self, name: str, *, scopes: Sequence[str] = DEFAULT_SCOPES, lifetime: timedelta | None = None
    ) -> str:
        """Makes a key in the oldest workspace, for whoever starts the service, and returns its secret.

        Without a lifetime it works until it is revoked.
        """

        def issue() -> str:
            operator = Principal(key_id="", key_revision=0, workspace_id="", scopes=frozenset({PLATFORM_ADMIN}))
            (oldest, *_), _ = self.workspaces.list(operator, page_size=1)
            expire_time = None if lifetime is None else datetime.now(UTC) + lifetime
            return self.keys.create(
                operator,
                name=name,
                scopes=scopes,
                workspace_id=oldest.workspace_id,
                expire_time=expire_time,
            )[1]

        return str(await self._blocking(issue))

    def _add_services(self, server: Any) -> None:
        metered = Metered(self.metering)
        admission = Admission(self._router, metered, blocking=self._blocking, session=current_session)
        service = CompletionService(
            Completions(admission, metered),
            texts=TextCompletions(admission, metered),
            responses=Responses(admission, metered, self._response_store, blocking=self._blocking),
            transcriptions=Transcriptions(admission, metered),
        )
        completion_service_pb2_grpc.add_CompletionServiceServicer_to_server(service, server)
        catalogue = CatalogueService(self._catalogue, self._switches, self._discovery)
        catalogue_service_pb2_grpc.add_CatalogueServiceServicer_to_server(catalogue, server)
        models = ModelService(self._catalogue, self._router)
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(models, server)
        key_service_pb2_grpc.add_KeyServiceServicer_to_server(KeyService(self.keys), server)
        provider_credential_service_pb2_grpc.add_ProviderCredentialServiceServicer_to_server(
            ProviderCredentialService(self.provider_credentials), server
        )
        response_service_pb2_grpc.add_ResponseServiceServicer_to_server(ResponseService(self.stored_responses), server)
        workspace_service_pb2_grpc.add_WorkspaceServiceServicer_to_server(WorkspaceService(self.workspaces), server)
        metering = MeteringService(self.metering, UsageViewsService(self._usage_views, self._blocking))
        metering_service_pb2_grpc.add_MeteringServiceServicer_to_server(metering, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)

    async def _listen(self, server: grpc.aio.Server) -> str:
        address = self._config.grpc_address
        try:
            port = server.add_insecure_port(address)
        except RuntimeError as error:
            raise OSError(f"cannot serve gRPC on {address}: {error}") from None
        await server.start()
        for service in SERVICES:
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)
        return address if address.startswith("unix:") else f"{address.rpartition(':')[0]}:{port}"

    async def _every(self, period_s: float, chore: Callable[[], object]) -> None:
        while True:
            await asyncio.sleep(period_s)
            await self._once(chore)

    async def _discover(self, period_s: float) -> None:
        """Reads providers' lists, first half a minute after the start, and not at the same moment on all replicas."""
        pause_s = min(DISCOVERY_START_S, period_s)
        while True:
            await asyncio.sleep(pause_s * random.uniform(1.0, 1.5))  # noqa: S311 - no secret
            pause_s = min(DISCOVERY_LOOK_S, period_s)
            try:
                await self._discovery.sync_due(period_s)
            except QuillgateError as error:
                log.warning("reading the providers' models is put off: %s", error.message)
            except Exception:
                log.exception("reading the providers' models failed")

    async def _once(self, chore: Callable[[], object]) -> None:
        """Does a chore, in a thread unless it is a coroutine, that the next round repeats if it fails."""
        try:
            await (chore() if inspect.iscoroutinefunction(chore) else self._blocking(chore))
        except QuillgateError as error:
            log.warning("%s is put off: %s", getattr(chore, "__name__", chore), error.message)
        except Exception:
            log.exception("%s failed", getattr(chore, "__name__", chore))

    def _blocking(self, call: Callable[[], Any]) -> Coroutine[Any, Any, Any]:
        async def run() -> Any:
            return await asyncio.get_running_loop().run_in_executor(self._threads, call)

        return run()


def _accounts(config: Config, pool: HttpPool) -> Mapping[str, Account]:
    """Returns the gateway's own accounts, by provider."""
    accounts = {ECHO: Account(ECHO, chat=Echo())}
    if pocketsphinx.is_installed():
        accounts[pocketsphinx.NAME] = Account(pocketsphinx.NAME, transcriptions=pocketsphinx.PocketSphinx())
    return accounts | {provider.name: make_account(provider, pool) for provider in config.providers}


def _record_keepers(config: Config, pool: HttpPool) -> frozenset[str]:
    """Returns the providers that can be asked later what a request used, with whatever key it was sent."""
    return frozenset(
        provider.name for provider in config.byok_providers if make_account(provider, pool).usage_lookup is not None
    )


def _listers(config: Config, accounts: Mapping[str, Account]) -> Mapping[str, ModelLister]:
    """Returns who lists the models of the providers whose list is to be read."""
    found = {provider.name: accounts[provider.name].lister for provider in config.providers if provider.discover}
    return {name: lister for name, lister in found.items() if lister is not None}
