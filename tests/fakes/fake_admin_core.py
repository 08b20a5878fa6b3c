"""Core's admin services in memory, on a real gRPC server on loopback: enough to tell whether a client speaks well."""

import itertools
import threading
from collections.abc import Iterator
from concurrent import futures
from dataclasses import dataclass, field
from typing import Any

import grpc
from fakes.fake_ledger_core import FakeLedger
from google.protobuf.any_pb2 import Any as AnyMessage

from quillgate.v1 import (
    catalogue_service_pb2,
    catalogue_service_pb2_grpc,
    key_service_pb2,
    key_service_pb2_grpc,
    ledger_service_pb2_grpc,
    metering_service_pb2,
    metering_service_pb2_grpc,
    model_service_pb2,
    model_service_pb2_grpc,
    provider_credential_service_pb2,
    provider_credential_service_pb2_grpc,
    workspace_service_pb2,
    workspace_service_pb2_grpc,
)
from quillgate.v1.error_reason_pb2 import ErrorInfo, ErrorStatus
from quillgate_codec.error_info import ERROR_INFO_TYPE, STATUS_DETAILS_KEY

ADMIN_SECRET = "qg_live_" + "A" * 36
NEW_SECRET = "qg_live_" + "N" * 36
OWN_WORKSPACE = "ws_" + "0" * 20


@dataclass(frozen=True)
class FakeError:
    """How a call is to fail; without a reason, as a server or proxy would that is not core."""

    code: grpc.StatusCode
    message: str
    reason: str = ""
    metadata: dict[str, str] = field(default_factory=dict)

    def abort(self, context: grpc.ServicerContext) -> None:
        """Ends the call with the status and, when there is a reason, its ErrorInfo."""
        if self.reason:
            info = ErrorInfo(reason=self.reason, domain="quillgate", metadata=self.metadata)
            detail = AnyMessage(type_url=ERROR_INFO_TYPE, value=info.SerializeToString())
            status = ErrorStatus(code=self.code.value[0], message=self.message, details=[detail])
            context.set_trailing_metadata(((STATUS_DETAILS_KEY, status.SerializeToString()),))
        context.abort(self.code, self.message)


class FakeAdminCore:
    """The state that the servicers share; `page_size` caps every page, `requests` holds every call in order."""

    def __init__(self, credentials: grpc.ServerCredentials | None = None, unix_path: str = "") -> None:
        self.page_size = 2
        self.requests: list[Any] = []
        self.error: FakeError | None = None
        self.hanging = threading.Event()
        self.released = threading.Event()
        self.released.set()
        self.keys: dict[str, key_service_pb2.Key] = {}
        self.workspaces: dict[str, workspace_service_pb2.Workspace] = {}
        self.days = metering_service_pb2.ListDailyMessageCountResponse()
        self.breakdown = metering_service_pb2.ListUsageBreakdownResponse()
        self.exports: list[list[metering_service_pb2.ExportLedgerResponse | FakeError]] = []
        self.ledger = FakeLedger(self)
        self.models: list[model_service_pb2.Model] = []
        self.route = model_service_pb2.ExplainModelResponse()
        self.catalogue: dict[str, catalogue_service_pb2.CatalogueModel] = {}
        self.differences: list[catalogue_service_pb2.ModelDifference] = []
        self.failures: list[str] = []
        self.endless = False
        self.credentials: dict[str, provider_credential_service_pb2.ProviderCredential] = {}
        self.test_result = provider_credential_service_pb2.TestProviderCredentialResponse(ok=True, message="Taken.")
        self.rewraps: list[provider_credential_service_pb2.RewrapProviderCredentialsResponse] = []
        self._numbers = itertools.count(1)
        self.add_workspace("Own", workspace_id=OWN_WORKSPACE)
        self._server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
        self.address = self._listen(credentials, unix_path)

    def __enter__(self) -> "FakeAdminCore":
        key_service_pb2_grpc.add_KeyServiceServicer_to_server(FakeKeys(self), self._server)
        workspace_service_pb2_grpc.add_WorkspaceServiceServicer_to_server(FakeWorkspaces(self), self._server)
        metering_service_pb2_grpc.add_MeteringServiceServicer_to_server(FakeMetering(self), self._server)
        ledger_service_pb2_grpc.add_LedgerServiceServicer_to_server(self.ledger, self._server)
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(FakeModels(self), self._server)
        provider_credential_service_pb2_grpc.add_ProviderCredentialServiceServicer_to_server(
            FakeCredentials(self), self._server
        )
        catalogue_service_pb2_grpc.add_CatalogueServiceServicer_to_server(FakeCatalogue(self), self._server)
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self._server.stop(grace=None).wait(5)

    def add_workspace(self, name: str, **fields: Any) -> workspace_service_pb2.Workspace:
        """Adds a workspace made at second 1,000,000,000."""
        if "workspace_id" not in fields:
            fields["workspace_id"] = f"ws_{next(self._numbers):020}"
        workspace = workspace_service_pb2.Workspace(name=name, **fields)
        workspace.create_time.seconds = workspace.update_time.seconds = 1_000_000_000
        self.workspaces[workspace.workspace_id] = workspace
        return workspace

    def add_key(self, name: str, **fields: Any) -> key_service_pb2.Key:
        """Adds a key made at second 1,000,000,000."""
        fields.setdefault("workspace_id", OWN_WORKSPACE)
        fields.setdefault("scopes", ["inference", "usage.read"])
        key = key_service_pb2.Key(key_id=f"key_{next(self._numbers):020}", name=name, last4="NNNN", **fields)
        key.create_time.seconds = 1_000_000_000
        self.keys[key.key_id] = key
        return key

    def begin(self, request: Any, context: grpc.ServicerContext) -> None:
        """Records the call and fails it when the key is wrong or the test wants it to."""
        self.requests.append(request)
        if not self.released.is_set():
            self.hanging.set()
            self.released.wait(30)
        if ("authorization", f"Bearer {ADMIN_SECRET}") not in context.invocation_metadata():
            message = "Incorrect API key provided."
            FakeError(grpc.StatusCode.UNAUTHENTICATED, message, "KEY_INVALID").abort(context)
        if self.error is not None:
            self.error.abort(context)

    def page(self, items: list[Any], request: Any) -> tuple[list[Any], str]:
        """Returns a page of the items and the token of the next one."""
        if self.endless:
            return items[:1], "again"
        start = int(request.page_token or 0)
        end = start + min(request.page_size or 100, self.page_size)
        return items[start:end], str(end) if end < len(items) else ""

    def find_key(self, key_id: str, context: grpc.ServicerContext) -> key_service_pb2.Key:
        """Returns the key or fails the call."""
        if key_id not in self.keys:
            message, metadata = f"No key `{key_id}`.", {"key_id": key_id}
            FakeError(grpc.StatusCode.NOT_FOUND, message, "KEY_NOT_FOUND", metadata).abort(context)
        return self.keys[key_id]

    def _listen(self, credentials: grpc.ServerCredentials | None, unix_path: str) -> str:
        if unix_path:
            self._server.add_insecure_port(f"unix://{unix_path}")
            return f"unix://{unix_path}"
        if credentials is not None:
            return f"localhost:{self._server.add_secure_port('localhost:0', credentials)}"
        return f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"


class FakeKeys(key_service_pb2_grpc.KeyServiceServicer):
    """KeyService over the shared state."""

    def __init__(self, core: FakeAdminCore) -> None:
        self._core = core

    def CreateKey(self, request: Any, context: Any) -> key_service_pb2.CreateKeyResponse:  # noqa: N802
        self._core.begin(request, context)
        fields = {"scopes": list(request.scopes) or None, "workspace_id": request.workspace_id or None}
        given = {name: value for name, value in fields.items() if value}
        key = self._core.add_key(request.name, allowed_models=request.allowed_models, **given)
        if request.HasField("expire_time"):
            key.expire_time.CopyFrom(request.expire_time)
        key.limits.CopyFrom(request.limits)
        return key_service_pb2.CreateKeyResponse(key=key, secret=NEW_SECRET)

    def GetKey(self, request: Any, context: Any) -> key_service_pb2.GetKeyResponse:  # noqa: N802
        self._core.begin(request, context)
        return key_service_pb2.GetKeyResponse(key=self._core.find_key(request.key_id, context))

    def ListKeys(self, request: Any, context: Any) -> key_service_pb2.ListKeysResponse:  # noqa: N802
        self._core.begin(request, context)
        keys = [k for k in self._core.keys.values() if request.include_revoked or not k.HasField("revoke_time")]
        page, token = self._core.page(keys, request)
        return key_service_pb2.ListKeysResponse(keys=page, next_page_token=token)

    def UpdateKey(self, request: Any, context: Any) -> key_service_pb2.UpdateKeyResponse:  # noqa: N802
        self._core.begin(request, context)
        key = self._core.find_key(request.key_id, context)
        request.update_mask.MergeMessage(request, key, True, True)
        for path in request.update_mask.paths:  # which leaves what a message that is absent would clear
            parent, _, name = path.partition(".")
            if parent == "limits" and not request.limits.HasField(name):
                key.limits.ClearField(name)
        return key_service_pb2.UpdateKeyResponse(key=key)

    def RotateKey(self, request: Any, context: Any) -> key_service_pb2.RotateKeyResponse:  # noqa: N802
        self._core.begin(request, context)
        return key_service_pb2.RotateKeyResponse(key=self._core.find_key(request.key_id, context), secret=NEW_SECRET)

    def RevokeKey(self, request: Any, context: Any) -> key_service_pb2.RevokeKeyResponse:  # noqa: N802
        self._core.begin(request, context)
        key = self._core.find_key(request.key_id, context)
        key.revoke_time.seconds = 1_100_000_000
        return key_service_pb2.RevokeKeyResponse(key=key)


class FakeWorkspaces(workspace_service_pb2_grpc.WorkspaceServiceServicer):
    """WorkspaceService over the shared state."""

    def __init__(self, core: FakeAdminCore) -> None:
        self._core = core

    def CreateWorkspace(self, request: Any, context: Any) -> workspace_service_pb2.CreateWorkspaceResponse:  # noqa: N802
        self._core.begin(request, context)
        workspace = self._core.add_workspace(request.name)
        if request.HasField("daily_message_allowance"):
            workspace.daily_message_allowance = request.daily_message_allowance
        if request.HasField("monthly_message_allowance"):
            workspace.monthly_message_allowance = request.monthly_message_allowance
        workspace.at_allowance = request.at_allowance or workspace_service_pb2.AT_ALLOWANCE_REFUSE
        workspace.store_responses = request.store_responses if request.HasField("store_responses") else True
        return workspace_service_pb2.CreateWorkspaceResponse(workspace=workspace)

    def GetWorkspace(self, request: Any, context: Any) -> workspace_service_pb2.GetWorkspaceResponse:  # noqa: N802
        self._core.begin(request, context)
        return workspace_service_pb2.GetWorkspaceResponse(workspace=self._find(request.workspace_id, context))

    def ListWorkspaces(self, request: Any, context: Any) -> workspace_service_pb2.ListWorkspacesResponse:  # noqa: N802
        self._core.begin(request, context)
        page, token = self._core.page(list(self._core.workspaces.values()), request)
        return workspace_service_pb2.ListWorkspacesResponse(workspaces=page, next_page_token=token)

    def UpdateWorkspace(self, request: Any, context: Any) -> workspace_service_pb2.UpdateWorkspaceResponse:  # noqa: N802
        self._core.begin(request, context)
        workspace = self._find(request.workspace_id, context)
        for path in request.update_mask.paths:
            if path == "disabled":
                workspace.ClearField("disable_time")
                if request.disabled:
                    workspace.disable_time.seconds = 1_100_000_000
            elif path.endswith("_allowance") and path != "at_allowance" and not request.HasField(path):
                workspace.ClearField(path)
            else:
                setattr(workspace, path, getattr(request, path))
        return workspace_service_pb2.UpdateWorkspaceResponse(workspace=workspace)

    def _find(self, workspace_id: str, context: Any) -> workspace_service_pb2.Workspace:
        workspace = self._core.workspaces.get(workspace_id or OWN_WORKSPACE)
        if workspace is None:
            metadata = {"workspace_id": workspace_id}
            message = f"No workspace `{workspace_id}`."
            FakeError(grpc.StatusCode.NOT_FOUND, message, "WORKSPACE_NOT_FOUND", metadata).abort(context)
        return workspace


class FakeMetering(metering_service_pb2_grpc.MeteringServiceServicer):
    """The calls of MeteringService that an operator makes; each export answers the next of `exports`."""

    def __init__(self, core: FakeAdminCore) -> None:
        self._core = core

    def ListDailyMessageCount(  # noqa: N802
        self, request: Any, context: Any
    ) -> metering_service_pb2.ListDailyMessageCountResponse:
        self._core.begin(request, context)
        return self._core.days

    def ListUsageBreakdown(  # noqa: N802
        self, request: Any, context: Any
    ) -> metering_service_pb2.ListUsageBreakdownResponse:
        self._core.begin(request, context)
        return self._core.breakdown

    def ExportLedger(  # noqa: N802
        self, request: Any, context: Any
    ) -> Iterator[metering_service_pb2.ExportLedgerResponse]:
        self._core.begin(request, context)
        for answer in self._core.exports.pop(0):
            if isinstance(answer, FakeError):
                answer.abort(context)
            else:
                yield answer

    def QuoteMessages(self, request: Any, context: Any) -> metering_service_pb2.QuoteMessagesResponse:  # noqa: N802
        self._core.begin(request, context)
        discount = request.usage.cached_tokens // 2
        effective = request.usage.prompt_tokens - discount
        counted = max(1, -(-(effective + request.usage.completion_tokens) // 16_000))
        return metering_service_pb2.QuoteMessagesResponse(
            cached_discount=discount, effective_input=effective, counted_messages=counted, tokens_per_message=16_000
        )


class FakeModels(model_service_pb2_grpc.ModelServiceServicer):
    """ModelService over the shared state."""

    def __init__(self, core: FakeAdminCore) -> None:
        self._core = core

    def ListModels(self, request: Any, context: Any) -> model_service_pb2.ListModelsResponse:  # noqa: N802
        self._core.begin(request, context)
        models = model_service_pb2.ModelList(object="list")
        models.data.SetInParent()
        models.data.items.extend(self._core.models)
        return model_service_pb2.ListModelsResponse(models=models)

    def GetModel(self, request: Any, context: Any) -> model_service_pb2.GetModelResponse:  # noqa: N802
        self._core.begin(request, context)
        for model in self._core.models:
            if model.id == request.id:
                return model_service_pb2.GetModelResponse(model=model)
        message = f"The model `{request.id}` does not exist or you do not have access to it."
        FakeError(grpc.StatusCode.NOT_FOUND, message, "MODEL_NOT_FOUND", {"model": request.id}).abort(context)
        raise AssertionError("abort raises")

    def ExplainModel(self, request: Any, context: Any) -> model_service_pb2.ExplainModelResponse:  # noqa: N802
        self._core.begin(request, context)
        return self._core.route


class FakeCredentials(provider_credential_service_pb2_grpc.ProviderCredentialServiceServicer):
    """ProviderCredentialService over the shared state; it answers `test_result`, and `rewraps` in turn."""

    def __init__(self, core: FakeAdminCore) -> None:
        self._core = core

    def SetProviderCredential(  # noqa: N802
        self, request: Any, context: Any
    ) -> provider_credential_service_pb2.SetProviderCredentialResponse:
        self._core.begin(request, context)
        credential = provider_credential_service_pb2.ProviderCredential(
            credential_id="cred_" + "1" * 20,
            workspace_id=request.workspace_id or OWN_WORKSPACE,
            provider=request.provider,
            base_url=request.base_url,
            last4=request.secret[-4:] if len(request.secret) >= 16 else "",
            allow_fallback=request.allow_fallback,
            master_key_id="0a1b2c3d",
        )
        credential.create_time.seconds = 1_000_000_000
        self._core.credentials[request.provider] = credential
        return provider_credential_service_pb2.SetProviderCredentialResponse(credential=credential)

    def ListProviderCredentials(  # noqa: N802
        self, request: Any, context: Any
    ) -> provider_credential_service_pb2.ListProviderCredentialsResponse:
        self._core.begin(request, context)
        credentials = self._core.credentials.values()
        return provider_credential_service_pb2.ListProviderCredentialsResponse(credentials=credentials)

    def TestProviderCredential(  # noqa: N802
        self, request: Any, context: Any
    ) -> provider_credential_service_pb2.TestProviderCredentialResponse:
        self._core.begin(request, context)
        self._find(request.provider, context)
        return self._core.test_result

    def DeleteProviderCredential(  # noqa: N802
        self, request: Any, context: Any
    ) -> provider_credential_service_pb2.DeleteProviderCredentialResponse:
        self._core.begin(request, context)
        self._find(request.provider, context)
        del self._core.credentials[request.provider]
        return provider_credential_service_pb2.DeleteProviderCredentialResponse()

    def RewrapProviderCredentials(  # noqa: N802
        self, request: Any, context: Any
    ) -> provider_credential_service_pb2.RewrapProviderCredentialsResponse:
        self._core.begin(request, context)
        return self._core.rewraps.pop(0)

    def _find(self, provider: str, context: Any) -> None:
        if provider not in self._core.credentials:
            message = f"The workspace has no key of its own with the provider `{provider}`."
            reason = "PROVIDER_CREDENTIAL_NOT_FOUND"
            FakeError(grpc.StatusCode.NOT_FOUND, message, reason, {"provider": provider}).abort(context)


class FakeCatalogue(catalogue_service_pb2_grpc.CatalogueServiceServicer):
    """CatalogueService over the shared state."""

    def __init__(self, core: FakeAdminCore) -> None:
        self._core = core

    def ListCatalogueModels(  # noqa: N802
        self, request: Any, context: Any
    ) -> catalogue_service_pb2.ListCatalogueModelsResponse:
        self._core.begin(request, context)
        return catalogue_service_pb2.ListCatalogueModelsResponse(
            models=self._core.catalogue.values(), snapshot_date="2026-11-25"
        )

    def SetModelEnabled(self, request: Any, context: Any) -> catalogue_service_pb2.SetModelEnabledResponse:  # noqa: N802
        self._core.begin(request, context)
        model = self._find(request.id, context)
        model.enabled = model.served = request.enabled
        return catalogue_service_pb2.SetModelEnabledResponse(model=model)

    def SetModelAlias(self, request: Any, context: Any) -> catalogue_service_pb2.SetModelAliasResponse:  # noqa: N802
        self._core.begin(request, context)
        model = self._find(request.model_id, context)
        model.aliases.append(request.alias)
        return catalogue_service_pb2.SetModelAliasResponse(model=model)

    def DeleteModelAlias(self, request: Any, context: Any) -> catalogue_service_pb2.DeleteModelAliasResponse:  # noqa: N802
        self._core.begin(request, context)
        return catalogue_service_pb2.DeleteModelAliasResponse()

    def SyncModels(self, request: Any, context: Any) -> catalogue_service_pb2.SyncModelsResponse:  # noqa: N802
        self._core.begin(request, context)
        return catalogue_service_pb2.SyncModelsResponse(
            differences=self._core.differences, failures=self._core.failures, written=not request.dry_run
        )

    def _find(self, model_id: str, context: Any) -> catalogue_service_pb2.CatalogueModel:
        if model_id not in self._core.catalogue:
            message = f"The model `{model_id}` does not exist or you do not have access to it."
            FakeError(grpc.StatusCode.NOT_FOUND, message, "MODEL_NOT_FOUND", {"model": model_id}).abort(context)
        return self._core.catalogue[model_id]
