"""Client and provider in one thread, in lock step with a service in another: so every request takes the same path.

Nothing is sent before the service has come to rest after what was sent before. Chunks then arrive one by one, as from
a model, and the service never finds two of them at once.
"""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from codec_work import ANSWER, CHOICE, CHUNK, USAGE

REST_ROUNDS = 12
REST_S = 0.01
TIMEOUT_S = 20.0

LAST = {**CHUNK, "choices": [{**CHOICE, "delta": {}, "finish_reason": "stop"}]}
END = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"

_JSON_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
_STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


class Peer:
    """One end of a connection; `received` is what has come and was not yet taken."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(TIMEOUT_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection = connection
        self.received = b""

    def send(self, data: bytes) -> None:
        """Sends all of it."""
        self._connection.sendall(data)

    def take_until(self, mark: bytes) -> bytes:
        """Takes up to the end of the mark."""
        while mark not in self.received:
            data = self._connection.recv(65_536)
            if not data:
                raise EOFError(f"the connection ended after {self.received!r}")
            self.received += data
        end = self.received.index(mark) + len(mark)
        taken, self.received = self.received[:end], self.received[end:]
        return taken

    def take_sized(self) -> bytes:
        """Takes a request or an answer that says its length, and returns the body."""
        head = self.take_until(b"\r\n\r\n").lower()
        length = int(head.partition(b"content-length:")[2].split()[0])
        while len(self.received) < length:
            self.received += self._connection.recv(65_536)
        body, self.received = self.received[:length], self.received[length:]
        return body

    def close(self) -> None:
        """Closes the connection."""
        self._connection.close()


class Conversation:
    """Asks the service on one connection and answers it on another."""

    def __init__(self, loop: asyncio.AbstractEventLoop, port: int, provider: socket.socket, key: str) -> None:
        self._loop = loop
        self._provider = provider
        self._key = key
        self._client = Peer(socket.create_connection(("127.0.0.1", port)))
        self._upstream: Peer | None = None

    def whole(self) -> None:
        """Has one request answered in one piece."""
        upstream = self._ask(stream=False)
        body = json.dumps(ANSWER).encode()
        upstream.send(_JSON_HEAD % len(body) + body)
        answer = json.loads(self._client.take_sized())
        if answer["choices"] != ANSWER["choices"]:
            raise ValueError(f"another answer than expected: {answer}")
        self.rest()

    def stream(self, chunks: int, *, at_once: bool = False) -> None:
        """Has one request streamed, with so many chunks before the usage."""
        upstream = self._ask(stream=True)
        upstream.send(_STREAM_HEAD)
        self.rest()
        frames = [_frame(CHUNK)] * chunks
        for frame in [b"".join(frames)] if at_once else frames:
            upstream.send(frame)
            for _ in range(chunks if at_once else 1):
                self._client.take_until(b" hello")
            self.rest()
        upstream.send(_frame(LAST) + _frame({**CHUNK, "choices": [], "usage": USAGE}) + END)
        self._client.take_until(b"[DONE]")
        self._client.take_until(b"0\r\n\r\n")
        self.rest()

    def rest(self) -> None:
        """Waits until the service's loop has nothing left to do, and its writer has had time."""
        for pause_s in (0, REST_S):
            time.sleep(pause_s)
            for _ in range(REST_ROUNDS):
                turn = threading.Lock()
                turn.acquire()
                self._loop.call_soon_threadsafe(turn.release)  # a C function: no instruction is counted for it
                turn.acquire()

    def close(self) -> None:
        """Closes both connections."""
        self._client.close()
        if self._upstream is not None:
            self._upstream.close()

    def _ask(self, *, stream: bool) -> Peer:
        """Sends a request and returns the provider's end, with the service's request taken from it."""
        question: dict[str, Any] = {"model": "guard/model", "max_tokens": 64, "temperature": 0.7, "stream": stream}
        question["messages"] = [
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": "Say hello."},
        ]
        if stream:
            question["stream_options"] = {"include_usage": True}
        body = json.dumps(question).encode()
        head = f"POST /api/openai/v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {self._key}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self._client.send(head.encode() + body)
        if self._upstream is None:
            self._upstream = Peer(self._provider.accept()[0])
        self._upstream.take_sized()
        self.rest()
        return self._upstream


def _frame(chunk: dict[str, Any]) -> bytes:
    data = b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n"
    return b"%x\r\n%s\r\n" % (len(data), data)


@contextmanager
def provider_socket() -> Iterator[socket.socket]:
    """Listens for the service."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(TIMEOUT_S)
        yield listener
