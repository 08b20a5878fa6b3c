"""KeyService: translates between the contract and `Keys`; blocking, run in the interceptor's threads."""

from collections.abc import Set
from typing import Any, Final

from quillgate.v1 import key_service_pb2 as pb
from quillgate.v1.key_service_pb2_grpc import KeyServiceServicer
from quillgate_core.key import KeyLimitChanges
from quillgate_core.keys import DEFAULT_SCOPES, KeyChanges, Keys
from quillgate_core.rpc.call import CurrentCall, current_call
from quillgate_core.rpc.convert import KEY_LIMITS, from_key, to_key_limits, to_seconds, to_time
from quillgate_core.rpc.masks import masked
from quillgate_core.unchanged import UNCHANGED

DEFAULT_OVERLAP_S: Final = 24 * 3600
_LIMIT_PATHS: Final = frozenset(f"limits.{name}" for name in KEY_LIMITS)
_CHANGEABLE: Final = frozenset({"name", "scopes", "allowed_models", "expire_time", "limits"}) | _LIMIT_PATHS


class KeyService(KeyServiceServicer):
    """Serves the key RPCs."""

    def __init__(self, keys: Keys, call: CurrentCall = current_call) -> None:
        self._keys = keys
        self._call = call

    def CreateKey(self, request: pb.CreateKeyRequest, context: Any) -> pb.CreateKeyResponse:  # noqa: N802
        """Makes a key."""
        key, secret = self._keys.create(
            self._call().principal,
            workspace_id=request.workspace_id,
            name=request.name,
            scopes=tuple(request.scopes) or DEFAULT_SCOPES,
            allowed_models=tuple(request.allowed_models),
            expire_time=to_time(request.expire_time, param="expire_time") if request.HasField("expire_time") else None,
            limits=to_key_limits(request.limits),
        )
        return pb.CreateKeyResponse(key=from_key(key), secret=secret)

    def GetKey(self, request: pb.GetKeyRequest, context: Any) -> pb.GetKeyResponse:  # noqa: N802
        """Returns a key."""
        return pb.GetKeyResponse(key=from_key(self._keys.get(self._call().principal, request.key_id)))

    def ListKeys(self, request: pb.ListKeysRequest, context: Any) -> pb.ListKeysResponse:  # noqa: N802
        """Lists keys."""
        keys, next_page_token = self._keys.list(
            self._call().principal,
            workspace_id=request.workspace_id,
            page_size=request.page_size,
            page_token=request.page_token,
            include_revoked=request.include_revoked,
        )
        return pb.ListKeysResponse(keys=[from_key(key) for key in keys], next_page_token=next_page_token)

    def UpdateKey(self, request: pb.UpdateKeyRequest, context: Any) -> pb.UpdateKeyResponse:  # noqa: N802
        """Changes a key."""
        named = masked(request.update_mask, _CHANGEABLE)
        expire_time = to_time(request.expire_time, param="expire_time") if request.HasField("expire_time") else None
        changes = KeyChanges(
            name=request.name if "name" in named else UNCHANGED,
            scopes=tuple(request.scopes) if "scopes" in named else UNCHANGED,
            allowed_models=tuple(request.allowed_models) if "allowed_models" in named else UNCHANGED,
            expire_time=expire_time if "expire_time" in named else UNCHANGED,
            limits=_limit_changes(request, named),
        )
        key = self._keys.update(self._call().principal, request.key_id, changes=changes)
        return pb.UpdateKeyResponse(key=from_key(key))

    def RotateKey(self, request: pb.RotateKeyRequest, context: Any) -> pb.RotateKeyResponse:  # noqa: N802
        """Gives a key a new secret."""
        overlap_s = to_seconds(request.overlap, param="overlap") if request.HasField("overlap") else DEFAULT_OVERLAP_S
        key, secret = self._keys.rotate(self._call().principal, request.key_id, overlap_s=overlap_s)
        return pb.RotateKeyResponse(key=from_key(key), secret=secret)

    def RevokeKey(self, request: pb.RevokeKeyRequest, context: Any) -> pb.RevokeKeyResponse:  # noqa: N802
        """Ends a key."""
        return pb.RevokeKeyResponse(key=from_key(self._keys.revoke(self._call().principal, request.key_id)))

    def IntrospectKey(self, request: pb.IntrospectKeyRequest, context: Any) -> pb.IntrospectKeyResponse:  # noqa: N802
        """Tells what a presented key may do."""
        key = self._keys.introspect(self._call().principal, request.secret)
        return pb.IntrospectKeyResponse(active=key is not None, key=None if key is None else from_key(key))


def _limit_changes(request: pb.UpdateKeyRequest, named: Set[str]) -> KeyLimitChanges:
    """Returns the limits that the mask names, `limits` meaning all of them, as they shall be."""
    limits = to_key_limits(request.limits)
    return KeyLimitChanges(
        **{name: getattr(limits, name) for name in KEY_LIMITS if named & {"limits", f"limits.{name}"}}
    )
