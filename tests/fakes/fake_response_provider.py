"""A provider that speaks the Responses API, without a network: it plays a script, and notes what it was asked."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from quillgate.v1.response_pb2 import Response, ResponseEvent, ResponseItem, ResponseRequest
from quillgate_core.upstream import PreparedResponse

#: What a scripted answer does, step by step: give events, wait for ever, or fail.
NativeStep = list[ResponseEvent] | Response | asyncio.Event | BaseException


@dataclass
class FakeResponseProvider:
    """Plays `steps` for each request; an event is waited for, an exception raised."""

    steps: Sequence[NativeStep] = ()
    name: str = "native"
    asked: list[tuple[ResponseRequest, list[ResponseItem], str, int | None]] = field(default_factory=list)
    closed: int = 0
    """How many streams have ended, whatever way."""

    def prepare_response(
        self,
        request: ResponseRequest,
        items: Sequence[ResponseItem],
        *,
        model: str,
        stream: bool,
        max_output_tokens: int | None,
    ) -> PreparedResponse:
        self.asked.append((request, list(items), model, max_output_tokens))
        return PreparedResponse(body=b"{}", stream=stream)

    async def create_response(self, prepared: PreparedResponse) -> Response:
        for step in self.steps:
            if isinstance(step, Response):
                return step
            await self._perform(step)
        raise AssertionError("the script has no answer")

    async def stream_response(self, prepared: PreparedResponse) -> AsyncIterator[list[ResponseEvent]]:
        try:
            for step in self.steps:
                if isinstance(step, list):
                    yield step
                else:
                    await self._perform(step)
        finally:
            self.closed += 1

    async def _perform(self, step: NativeStep) -> None:
        if isinstance(step, BaseException):
            raise step
        assert isinstance(step, asyncio.Event)
        await step.wait()
