"""ProviderCredentialService: between the contract and `ProviderCredentials`; blocking, but for the test of a key."""

from typing import Any

from quillgate.v1 import provider_credential_service_pb2 as pb
from quillgate.v1.provider_credential_service_pb2_grpc import ProviderCredentialServiceServicer
from quillgate_core.provider_credential import ProviderCredential
from quillgate_core.provider_credentials import ProviderCredentials
from quillgate_core.rpc.call import CurrentCall, current_call
from quillgate_core.rpc.convert import to_timestamp
from quillgate_core.secret import Secret


class ProviderCredentialService(ProviderCredentialServiceServicer):
    """Serves the RPCs of workspaces' provider keys."""

    def __init__(self, credentials: ProviderCredentials, call: CurrentCall = current_call) -> None:
        self._credentials = credentials
        self._call = call

    def SetProviderCredential(  # noqa: N802
        self, request: pb.SetProviderCredentialRequest, context: Any
    ) -> pb.SetProviderCredentialResponse:
        """Keeps a key."""
        credential = self._credentials.set(
            self._call().principal,
            workspace_id=request.workspace_id,
            provider=request.provider,
            secret=Secret(request.secret),
            base_url=request.base_url,
            allow_fallback=request.allow_fallback,
        )
        return pb.SetProviderCredentialResponse(credential=_from_credential(credential))

    def ListProviderCredentials(  # noqa: N802
        self, request: pb.ListProviderCredentialsRequest, context: Any
    ) -> pb.ListProviderCredentialsResponse:
        """Lists a workspace's keys."""
        found = self._credentials.list(self._call().principal, workspace_id=request.workspace_id)
        return pb.ListProviderCredentialsResponse(credentials=[_from_credential(credential) for credential in found])

    async def TestProviderCredential(  # noqa: N802
        self, request: pb.TestProviderCredentialRequest, context: Any
    ) -> pb.TestProviderCredentialResponse:
        """Tries a key."""
        result = await self._credentials.test(
            self._call().principal, workspace_id=request.workspace_id, provider=request.provider
        )
        return pb.TestProviderCredentialResponse(ok=result.ok, message=result.message, latency_ms=result.latency_ms)

    def DeleteProviderCredential(  # noqa: N802
        self, request: pb.DeleteProviderCredentialRequest, context: Any
    ) -> pb.DeleteProviderCredentialResponse:
        """Forgets a key."""
        self._credentials.delete(self._call().principal, workspace_id=request.workspace_id, provider=request.provider)
        return pb.DeleteProviderCredentialResponse()

    def RewrapProviderCredentials(  # noqa: N802
        self, request: pb.RewrapProviderCredentialsRequest, context: Any
    ) -> pb.RewrapProviderCredentialsResponse:
        """Seals some keys anew."""
        done = self._credentials.rewrap(self._call().principal, limit=request.limit)
        return pb.RewrapProviderCredentialsResponse(
            rewrapped=done.rewrapped,
            remaining=done.remaining,
            unreadable=done.unreadable,
            master_key_id=done.master_key_id,
        )


def _from_credential(credential: ProviderCredential) -> pb.ProviderCredential:
    return pb.ProviderCredential(
        credential_id=credential.credential_id,
        workspace_id=credential.workspace_id,
        provider=credential.provider,
        base_url=credential.base_url,
        last4=credential.last4,
        allow_fallback=credential.allow_fallback,
        create_time=to_timestamp(credential.create_time),
        master_key_id=credential.sealed.master_key_id,
    )
