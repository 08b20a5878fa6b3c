"""Follows one text completion: makes what comes clean OpenAI pieces and knows what it used. Pure, no I/O.

A completion is made by one call of a provider, or by one for each prompt; usage is known call by call and told as one.
What leaves here has one id, one created, the model that was asked for, one finish_reason for each choice, usage only in
the last piece and only when asked for. A whole answer is a stream whose only piece comes at its end, `WholeTextTally`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from quillgate.v1.chat_completion_pb2 import CompletionUsage
from quillgate.v1.text_completion_pb2 import TextChoice, TextCompletion, TextCompletionRequest
from quillgate_core.chat_progress import estimate, grown
from quillgate_core.chat_tally import clean_extra, is_usage, reported, usage_of
from quillgate_core.counting import Usage
from quillgate_core.errors import ProviderUnavailable
from quillgate_core.reservation import UsageSource


@dataclass(frozen=True, slots=True)
class TextCall:
    """One call of a provider: the size of what it is sent, and what is put before each of its choices."""

    prompt_bytes: int
    echo: str = ""


@dataclass(frozen=True, slots=True)
class TextBatch:
    """Pieces that arrived together, the number of the call that they came from, and the provider's id of its answer."""

    call: int
    pieces: Sequence[TextCompletion]
    upstream_id: str = ""


@dataclass(slots=True)
class _CallState:
    call: TextCall
    is_begun: bool = False
    output_bytes: int = 0
    usage: CompletionUsage | None = None
    usage_bytes: int = 0  # of output, when the usage was told
    begun: set[int] = field(default_factory=set)
    finished: set[int] = field(default_factory=set)

    def is_whole(self) -> bool:
        return bool(self.begun) and self.begun == self.finished

    def used(self) -> tuple[Usage, UsageSource]:
        if self.usage is None:
            return estimate(self.call.prompt_bytes, self.output_bytes), "estimate"
        if self.is_whole():
            return usage_of(self.usage), "provider"
        return grown(usage_of(self.usage), self.output_bytes - self.usage_bytes)


class TextTally:
    """The state of one stream; `begin` each call before it is sent, `take` each batch in order, then `finish`."""

    def __init__(
        self,
        request: TextCompletionRequest,
        calls: Iterable[TextCall],
        *,
        fallback_id: str,
        created: int,
        provider: str,
        model: str = "",
    ) -> None:
        self._include_usage = request.stream_options.include_usage
        self._calls = [_CallState(call) for call in calls]
        self._provider = provider
        self._head = TextCompletion(object="text_completion", created=created, model=model or request.model)
        self._fallback_id = fallback_id
        self.started = False
        self.upstream_id = ""

    def begin(self, call: int) -> None:
        """Notes that a call is about to be sent: from here on it costs its prompt."""
        self._calls[call].is_begun = True

    def take(self, batch: TextBatch) -> list[TextCompletion]:
        """Returns the pieces to pass on; may be none."""
        self.note_id(batch)
        pieces = [piece for piece in batch.pieces if self._take(piece, self._calls[batch.call])]
        self.started = self.started or bool(pieces)
        return pieces

    def check(self, call: int) -> None:
        """Raises ProviderUnavailable for a call that ended before every choice had its finish_reason."""
        if not self._calls[call].is_whole():
            raise ProviderUnavailable("The provider ended the answer before it was complete.", provider=self._provider)

    def finish(self) -> None:
        """Raises ProviderUnavailable for a stream that ended before it was whole."""
        for call in range(len(self._calls)):
            self.check(call)

    def usage(self) -> tuple[Usage, UsageSource]:
        """Returns what was used so far; an estimate as soon as one call is estimated."""
        used = [state.used() for state in self._calls if state.is_begun]
        total = Usage(
            sum(usage.prompt_tokens for usage, _ in used),
            sum(usage.cached_tokens for usage, _ in used),
            sum(usage.completion_tokens for usage, _ in used),
            cache_write_tokens=sum(usage.cache_write_tokens for usage, _ in used),
        )
        return total, "provider" if all(source == "provider" for _, source in used) else "estimate"

    def last(self) -> list[TextCompletion]:
        """Returns the piece that carries the usage, when the client asked for it."""
        if not self._include_usage:
            return []
        piece = self.headed(TextCompletion())
        piece.usage.CopyFrom(self.shown_usage())
        return [piece]

    def failure(self, error: Exception) -> list[TextCompletion]:
        """Returns nothing: an error after pieces is the caller's to tell."""
        return []

    def shown_usage(self) -> CompletionUsage:
        """Returns the usage as the client sees it: the provider's own where one call made the answer."""
        if len(self._calls) == 1 and self._calls[0].usage is not None:
            return self._calls[0].usage
        used, _ = self.usage()
        shown = reported(used)
        if used.cached_tokens:
            shown.prompt_tokens_details.cached_tokens = used.cached_tokens
        reasoning = (state.usage.completion_tokens_details.reasoning_tokens for state in self._calls if state.usage)
        if reasoning_tokens := sum(reasoning):
            shown.completion_tokens_details.reasoning_tokens = reasoning_tokens
        return shown

    def headed(self, piece: TextCompletion) -> TextCompletion:
        """Gives a piece the id, object, created and model that all pieces share, the first one's own if it has them."""
        if not self._head.id:
            self._head.id = piece.id or self._fallback_id
            self._head.created = piece.created or self._head.created
        piece.MergeFrom(self._head)
        return piece

    def _take(self, piece: TextCompletion, state: _CallState) -> bool:
        self.note_usage(piece, state)
        for position in reversed(range(len(piece.choices))):
            if _is_empty(piece.choices[position], state):
                del piece.choices[position]
        if not piece.choices:
            return False
        clean_extra(piece)
        self.headed(piece)
        for choice in piece.choices:
            _take_choice(choice, state)
        return True

    def note_id(self, batch: TextBatch) -> None:
        """Keeps the provider's id, unless several calls make the answer: the usage of one of them is not the whole."""
        if len(self._calls) == 1 and not self.upstream_id:
            self.upstream_id = batch.upstream_id

    @staticmethod
    def note_usage(piece: TextCompletion, state: _CallState) -> None:
        """Keeps the usage of a piece, the last sane one of a call, and takes it out."""
        if piece.HasField("usage"):
            if is_usage(piece.usage):
                state.usage = CompletionUsage()
                state.usage.CopyFrom(piece.usage)
                state.usage_bytes = state.output_bytes + sum(len(choice.text.encode()) for choice in piece.choices)
            piece.ClearField("usage")


class WholeTextTally(TextTally):
    """Gathers the answers of all calls into one; nothing is passed on before the end."""

    def __init__(
        self,
        request: TextCompletionRequest,
        calls: Iterable[TextCall],
        *,
        fallback_id: str,
        created: int,
        provider: str,
        model: str = "",
    ) -> None:
        super().__init__(request, calls, fallback_id=fallback_id, created=created, provider=provider, model=model)
        self._answer = TextCompletion()
        self._choices: list[TextChoice] = []

    def take(self, batch: TextBatch) -> list[TextCompletion]:
        """Returns nothing, and keeps the answer; the other members of the first one are those of all."""
        self.note_id(batch)
        state = self._calls[batch.call]
        for answer in batch.pieces:
            self.note_usage(answer, state)
            for position, choice in enumerate(answer.choices):
                choice.index = choice.index if choice.HasField("index") else position
                _take_choice(choice, state)
            self._choices.extend(answer.choices)
            answer.ClearField("choices")
            if not self._answer.ByteSize():
                clean_extra(answer)
                self._answer.CopyFrom(answer)
        return []

    def finish(self) -> None:
        """Accepts what came: an answer in one piece is whole, also when it does not say why it ended."""

    def last(self) -> list[TextCompletion]:
        """Returns the answer."""
        answer = self.headed(self._answer)
        answer.choices.extend(sorted(self._choices, key=lambda choice: choice.index))
        answer.usage.CopyFrom(self.shown_usage())
        return [answer]


def _is_empty(choice: TextChoice, state: _CallState) -> bool:
    """Tells a choice that says nothing new: a repeated end, or no text, as while a model thinks."""
    if choice.text or choice.HasField("logprobs"):
        return False
    if choice.index in state.finished:
        return True
    return choice.index in state.begun and not choice.finish_reason and not choice.extra_json


def _take_choice(choice: TextChoice, state: _CallState) -> None:
    index, text = choice.index, choice.text
    state.output_bytes += len(text.encode())
    choice.index = index  # set also when the provider left them out: clients read both
    choice.text = text if index in state.begun else state.call.echo + text
    state.begun.add(index)
    if choice.finish_reason and index not in state.finished:
        state.finished.add(index)
    else:
        choice.ClearField("finish_reason")  # some providers send "" until the end, or the reason in every piece
