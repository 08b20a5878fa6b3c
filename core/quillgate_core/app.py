"""The composition root: from a Config to a running core and back. It names the concrete classes."""

import asyncio
import logging
import uuid
from collections.abc import Callable, Sequence
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
    ledger_service_pb2_grpc,
    metering_service_pb2_grpc,
    model_service_pb2_grpc,
    provider_credential_service_pb2_grpc,
    response_service_pb2_grpc,
    workspace_service_pb2_grpc,
)
from quillgate_core.admission import Admission
from quillgate_core.allowance_events import AllowanceEvents
from quillgate_core.chores import Chores
from quillgate_core.completions import Completions
from quillgate_core.config import Config
from quillgate_core.discovery import Discovery
from quillgate_core.draining import Draining
from quillgate_core.failpoint import Failpoint, no_failpoint
from quillgate_core.key_usage import KeyUsages
from quillgate_core.keys import DEFAULT_SCOPES, Keys
from quillgate_core.late_truth import LateTruth
from quillgate_core.ledger_composition import ledger_service
from quillgate_core.live_catalogue import LiveCatalogue
from quillgate_core.metered import Metered
from quillgate_core.metering import Metering
from quillgate_core.model_switches import ModelSwitches
from quillgate_core.principal import PLATFORM_ADMIN, Principal
from quillgate_core.provider_credentials import ProviderCredentials
from quillgate_core.providers.accounts import make_account
from quillgate_core.providers.address_guard import url_denial
from quillgate_core.providers.house_accounts import house_accounts, model_listers, record_keepers
from quillgate_core.providers.http_pool import HttpPool
from quillgate_core.providers.webhook import Webhook
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
from quillgate_core.running import Cutting, Running
from quillgate_core.storage.adjustment_store import SqlAdjustmentStore
from quillgate_core.storage.catalogue_store import PostgresCatalogueStore
from quillgate_core.storage.daily_store import SqlDailyStore
from quillgate_core.storage.database import Database
from quillgate_core.storage.event_store import SqlEventStore
from quillgate_core.storage.export_store import SqlExportStore
from quillgate_core.storage.journal import SUFFIX, Journal
from quillgate_core.storage.key_store import PostgresKeyStore
from quillgate_core.storage.key_usage_store import SqlKeyUsageStore
from quillgate_core.storage.lease_store import SqlLeaseStore
from quillgate_core.storage.ledger import Ledger, connect_ledger
from quillgate_core.storage.predecessors import Predecessors
from quillgate_core.storage.provider_credential_store import PostgresProviderCredentialStore
from quillgate_core.storage.response_store import PostgresResponseStore
from quillgate_core.storage.standing_store import SqlStandingStore
from quillgate_core.storage.usage_store import SqlUsageStore
from quillgate_core.storage.workspace_store import PostgresWorkspaceStore
from quillgate_core.storage.writer import GroupedWriter
from quillgate_core.stored_responses import StoredResponses
from quillgate_core.text_completions import TextCompletions
from quillgate_core.transcriptions import Transcriptions
from quillgate_core.usage_lookups import UsageLookups
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
STANDING_POLL_S = 1.0
LATE_TRUTH_S = 10.0
EVENTS_S = 3.0
WRITER_CLOSE_S = 10.0
CATALOGUE_POLL_S = 1.0
DISCOVERY_START_S = 30.0
DISCOVERY_LOOK_S = 60.0

SERVICES = (
    "quillgate.v1.CatalogueService",
    "quillgate.v1.CompletionService",
    "quillgate.v1.KeyService",
    "quillgate.v1.LedgerService",
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
    # Clients look for further cores only when they connect; a call that runs is never cut by this.
    ("grpc.max_connection_age_ms", 60_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
)


class Core:
    """A core that serves gRPC on `address` and in this process on `channel`; `start` and `stop` frame its life.

    With `shares_port`, other processes of the same user may serve on its port too, and the kernel shares out
    connections. `failpoint` is called before and after durable steps, for tests that end the process there.
    """

    def __init__(
        self, config: Config, database: Database, *, shares_port: bool = False, failpoint: Failpoint = no_failpoint
    ) -> None:
        self._config = config
        self._grpc_options = (*_GRPC_OPTIONS, ("grpc.so_reuseport", int(shares_port)))
        self._failpoint = failpoint
        self._threads = ThreadPoolExecutor(DATABASE_THREADS, thread_name_prefix="quillgate-database")
        self._lease_threads = ThreadPoolExecutor(1, thread_name_prefix="quillgate-lease")
        adjustments = SqlAdjustmentStore(database.engine)
        daily_store = SqlDailyStore(database.engine)
        self._begin_metering(database, daily_store, adjustments)
        self._usage_views = UsageViews(SqlUsageStore(database.engine), SqlExportStore(database.engine), daily_store)
        self.keys = Keys(PostgresKeyStore(database.engine), pepper=database.pepper)
        self._key_usages = KeyUsages(self.keys, daily_store, SqlKeyUsageStore(database.engine))
        self.workspaces = Workspaces(PostgresWorkspaceStore(database.engine))
        self._response_store = PostgresResponseStore(database.engine, timedelta(days=config.response_retention_days))
        self.stored_responses = StoredResponses(self._response_store)
        self._pool = HttpPool()
        self._accounts = house_accounts(config.providers, self._pool)
        self.provider_credentials = ProviderCredentials(
            PostgresProviderCredentialStore(database.engine),
            database.master_keys,
            {provider.name: provider for provider in config.byok_providers},
            open_account=lambda provider: make_account(provider, self._pool, byok=True),
            blocking=self._blocking,
            is_allowed_host=config.catalogue.is_allowed_host,
            url_denial=url_denial,
        )
        catalogue_store = PostgresCatalogueStore(database.engine)
        self._catalogue = LiveCatalogue(config.catalogue, providers=self._accounts, store=catalogue_store)
        self._switches = ModelSwitches(self._catalogue, catalogue_store)
        self._discovery = Discovery(
            self._catalogue, catalogue_store, model_listers(config.providers, self._accounts), blocking=self._blocking
        )
        self._router = Router(
            self._catalogue,
            self._accounts,
            own_keys=self.provider_credentials,
            max_attempts=config.max_attempts,
        )
        self._draining = Draining()
        self._running = Running()
        self._cutting = Cutting(
            self._running,
            SqlStandingStore(database.engine),
            blocking=self._blocking,
            names_of=self._catalogue.names_of,
        )
        keepers = record_keepers(config.byok_providers, self._pool)
        self._late_truth = LateTruth(
            adjustments,
            self._accounts,
            self.provider_credentials,
            providers=keepers,
            blocking=self._blocking,
        )
        lookups = UsageLookups(self._accounts, self.provider_credentials)
        self._ledger_service = ledger_service(database, lookups, record_keepers=keepers, blocking=self._blocking)
        self._events: AllowanceEvents | None = None
        if config.webhook is not None:
            sender = Webhook(config.webhook, self._pool)
            self._events = AllowanceEvents(SqlEventStore(database.engine), sender, blocking=self._blocking)
        self._health = HealthServicer()
        self._interceptor = CallInterceptor(
            self.keys,
            self._threads,
            completions=Capacity(config.max_completions, wait_s=CAPACITY_WAIT_S),
            admin=Capacity(config.max_admin_calls, wait_s=CAPACITY_WAIT_S),
        )
        self._local = InProcessServer(self._interceptor)
        self._server: grpc.aio.Server | None = None
        self._chores = Chores(self._blocking)
        self.channel = InProcessChannel(self._local)
        self.address = ""

    def _begin_metering(self, database: Database, daily_store: SqlDailyStore, adjustments: SqlAdjustmentStore) -> None:
        instance_id = f"core_{uuid.uuid4().hex}"
        path = database.data_dir / "journal" / f"{instance_id}{SUFFIX}"
        self._journal = Journal(path, failpoint=self._failpoint)
        self._writer = GroupedWriter(
            connect=partial(connect_ledger, database.url),
            ledger=Ledger(failpoint=self._failpoint),
            journal=self._journal,
            correct=adjustments.correct,
            failpoint=self._failpoint,
        )
        self.metering = Metering(
            writer=self._writer,
            daily_store=daily_store,
            lease_store=SqlLeaseStore(database.lease_engine, failpoint=self._failpoint),
            instance_id=instance_id,
            idempotency=current_idempotency,
        )
        self._predecessors = Predecessors(
            database.data_dir / "journal", writer=self._writer, metering=self.metering, blocking=self._blocking
        )

    async def start(self) -> None:
        """Starts the writer, the lease, the chores and the gRPC server; raises OSError if its address is taken."""
        self._open_journal()
        self._writer.start()
        await self._leasing(self.metering.renew_lease)
        await self._blocking(self.provider_credentials.refresh)
        await self._chores.once(self._catalogue.refresh)
        self._server = grpc.aio.server(interceptors=(self._interceptor,), options=self._grpc_options)
        for server in (self._server, self._local):
            self._add_services(server)
        reflection.enable_server_reflection((*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server)
        self.address = await self._listen(self._server)
        self._begin_chores()

    def _begin_chores(self) -> None:
        every = self._chores.every
        every(LEASE_RENEW_S, self.metering.renew_lease, blocking=self._leasing)
        every(RECOVER_S, self.metering.recover, blocking=self._leasing)
        every(RECOVER_S, self._predecessors.inherit, at_once=True)
        every(LAST_USED_FLUSH_S, self.keys.flush_last_used)
        every(OWN_KEYS_POLL_S, self.provider_credentials.refresh)
        every(STANDING_POLL_S, self._cutting.look)
        every(PURGE_S, self.stored_responses.purge)
        every(CATALOGUE_POLL_S, self._catalogue.refresh)
        every(LATE_TRUTH_S, self._late_truth.learn)
        if self._events is not None:
            every(EVENTS_S, self._events.publish)
        if self._config.discovery_s:
            period_s = self._config.discovery_s
            look = partial(self._discovery.sync_due, period_s)
            self._chores.scattered(min(DISCOVERY_START_S, period_s), min(DISCOVERY_LOOK_S, period_s), look)

    async def drain(self) -> None:
        """Says through the health service that no new requests should come; those that come are still served."""
        await self._health.enter_graceful_shutdown()

    async def stop(self, grace_s: float) -> None:
        """Lets running RPCs finish for `grace_s` seconds, cancels the rest, and lands every settlement.

        What the database does not take within 10 s stays in the journal, for the next start.
        """
        await self.drain()
        if self._server is not None:
            await self._server.stop(grace_s)
        await self._draining.stop()
        await self._chores.stop()
        await self._pool.close()
        is_drained = await self._blocking(partial(self._writer.close, WRITER_CLOSE_S))
        await self._chores.once(self.keys.flush_last_used)
        if is_drained:
            await self._leasing(self.metering.end_lease)
        self._journal.close(keep=not is_drained)
        self._threads.shutdown()
        self._lease_threads.shutdown()

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
        metered = Metered(self.metering, running=self._running, draining=self._draining, failpoint=self._failpoint)
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
        ledger_service_pb2_grpc.add_LedgerServiceServicer_to_server(self._ledger_service, server)
        provider_credential_service_pb2_grpc.add_ProviderCredentialServiceServicer_to_server(
            ProviderCredentialService(self.provider_credentials), server
        )
        response_service_pb2_grpc.add_ResponseServiceServicer_to_server(ResponseService(self.stored_responses), server)
        workspace_service_pb2_grpc.add_WorkspaceServiceServicer_to_server(WorkspaceService(self.workspaces), server)
        views = UsageViewsService(self._usage_views, self._blocking)
        metering_service_pb2_grpc.add_MeteringServiceServicer_to_server(
            MeteringService(self.metering, self._key_usages, views), server
        )
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

    def _open_journal(self) -> None:
        """Opens the journal, or goes on without one: a read-only data directory is no reason to serve nobody."""
        try:
            self._journal.open()
        except OSError as error:
            log.error("no journal can be kept; a crash while the database is away will charge holds: %s", error)

    async def _blocking(self, call: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    async def _leasing(self, call: Callable[[], Any]) -> Any:
        """Runs what keeps the lease, in a thread that nothing else can keep busy."""
        return await asyncio.get_running_loop().run_in_executor(self._lease_threads, call)
