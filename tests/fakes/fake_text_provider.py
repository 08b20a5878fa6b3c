"""A provider of text completions without a network: it answers what a test scripts, and notes what it was asked."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from fakes.text_answers import text_value

from quillgate.v1.text_completion_pb2 import TextCompletion, TextCompletionRequest
from quillgate_codec import provider_text_completion
from quillgate_core.upstream import PreparedText

USAGE = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}


def piece(*texts: str, finish: str | None = None, **members: object) -> TextCompletion:
    """A piece with one choice for each text, as a provider streams it."""
    return provider_text_completion.from_value(text_value(texts, finish_reason=finish, **members))


def whole(*texts: str, **members: object) -> TextCompletion:
    """A whole answer with usage 10 / 5."""
    return piece(*(texts or ("Hello",)), finish="stop", **{"usage": USAGE, **members})


#: What a scripted answer does, step by step: give pieces, wait for ever, or fail.
Step = list[TextCompletion] | asyncio.Event | BaseException


@dataclass
class FakeTextProvider:
    """Plays `steps` for each request; an event is waited for, an exception raised; a whole answer is one piece."""

    steps: Sequence[Step] = ()
    prepare_failures: list[Exception | None] = field(default_factory=list)
    name: str = "native"
    limits: list[int | None] = field(default_factory=list)
    """The output limits of the calls of prepare_text."""
    models: list[str] = field(default_factory=list)
    dispatched: int = 0
    closed: int = 0
    waiting: asyncio.Event = field(default_factory=asyncio.Event)

    def prepare_text(
        self, request: TextCompletionRequest, *, model: str, stream: bool, max_output_tokens: int | None
    ) -> PreparedText:
        self.limits.append(max_output_tokens)
        self.models.append(model)
        failure = self.prepare_failures.pop(0) if self.prepare_failures else None
        if failure is not None:
            raise failure
        return PreparedText(body=b"{}", stream=stream)

    async def create_text(self, prepared: PreparedText) -> TextCompletion:
        self.dispatched += 1
        for step in self.steps:
            if isinstance(step, list):
                return step[0]
            await self._perform(step)
        raise AssertionError("the script has no answer")

    async def stream_text(self, prepared: PreparedText) -> AsyncIterator[list[TextCompletion]]:
        self.dispatched += 1
        try:
            for step in self.steps:
                if isinstance(step, list):
                    yield step
                else:
                    await self._perform(step)
        finally:
            self.closed += 1

    async def _perform(self, step: Step) -> None:
        if isinstance(step, BaseException):
            raise step
        assert isinstance(step, asyncio.Event)
        self.waiting.set()
        await step.wait()
