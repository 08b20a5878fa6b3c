"""What one call asks, as far as it is needed to tell a repeated request from another one. It must not read ahead."""

import hashlib
from collections.abc import AsyncIterator
from typing import Any

from google.protobuf.message import Message

from quillgate_core.reservation import Idempotency


class Asked:
    """A call's idempotency key, and a hash of its method and of what was read of its request so far."""

    def __init__(self, method: str, idempotency_key: str | None) -> None:
        self._idempotency_key = idempotency_key
        self._message: Message | None = None
        if idempotency_key is not None:
            self._digest = hashlib.sha256(method.encode())

    def note(self, request: Any) -> Any:
        """Returns the request as the servicer is to get it: a message, or messages that are noted as they are read."""
        if self._idempotency_key is None:
            return request
        if not isinstance(request, Message):
            return _Noted(request, self._digest)
        self._message = request
        return request

    def idempotency(self) -> Idempotency | None:
        """Returns the key and the hash, None without a key; a single message is not hashed before."""
        if self._idempotency_key is None:
            return None
        digest = self._digest.copy()
        if self._message is not None:
            digest.update(self._message.SerializeToString(deterministic=True))
        return Idempotency(self._idempotency_key, digest.digest())


class _Noted:
    """Hashes the first message as it is, and of the others their bytes alone: how these are cut says nothing."""

    def __init__(self, messages: AsyncIterator[Message], digest: "hashlib._Hash") -> None:
        self._messages = aiter(messages)
        self._digest = digest
        self._is_first = True

    def __aiter__(self) -> "_Noted":
        return self

    async def __anext__(self) -> Message:
        message = await anext(self._messages)
        if self._is_first:
            self._is_first = False
            self._digest.update(message.SerializeToString(deterministic=True))
        else:
            self._note_bytes(message)
        return message

    def _note_bytes(self, message: Message) -> None:
        for _, value in message.ListFields():
            if isinstance(value, bytes):
                self._digest.update(value)
