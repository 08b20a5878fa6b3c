"""What every vendor's refusals become, as a status and as a frame of a stream: one of our errors, without our key."""

from typing import get_args

import pytest
from conformance.trial import Outcome, Trial
from conformance.vendor import API_KEY, Content, Trouble

from quillgate_core.errors import Overloaded, ProviderRejected, ProviderTimeout, ProviderUnavailable, QuillgateError

BOTH_WAYS = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
EXPECTED: dict[Trouble, type[QuillgateError]] = {
    "bad_request": ProviderRejected,
    "context_length": ProviderRejected,
    "bad_key": ProviderUnavailable,
    "no_money": ProviderUnavailable,
    "forbidden": ProviderUnavailable,
    "unknown_model": ProviderRejected,
    "too_large": ProviderRejected,
    "rate_limited": Overloaded,
    "overloaded": ProviderUnavailable,
    "server_error": ProviderUnavailable,
    "timeout": ProviderTimeout,
}
#: What agents act on: they shorten the conversation, or choose another model. Other codes are the vendor's own.
CODES: dict[Trouble, str] = {"context_length": "context_length_exceeded", "unknown_model": "model_not_found"}
TROUBLES = pytest.mark.parametrize("trouble", get_args(Trouble))


def check(trial: Trial, trouble: Trouble, outcome: Outcome) -> None:
    """Asserts class, code and metadata of the failure, and that the key is nowhere in it."""
    failure = outcome.failure
    assert failure is not None
    assert type(failure) is EXPECTED[trouble]
    if trouble in CODES:
        assert failure.metadata["code"] == CODES[trouble]
    keys = {ProviderRejected: {"provider", "code", "param"}, Overloaded: {"retry_after_s"}}
    assert set(failure.metadata) == keys.get(type(failure), {"provider"})
    if "provider" in failure.metadata:
        assert failure.metadata["provider"] == trial.provider().name
    assert failure.message.strip()
    assert len(failure.message) <= 500
    assert_without_key(failure)


def assert_without_key(failure: BaseException | None) -> None:
    """Asserts that neither the error nor what caused it shows the key, not even in part."""
    while failure is not None:
        shown = f"{failure!r} {failure} {failure.args} {getattr(failure, 'metadata', '')}"
        assert API_KEY not in shown
        assert API_KEY[:15] not in shown
        failure = failure.__cause__ or failure.__context__


@BOTH_WAYS
@TROUBLES
async def test_a_refusal_is_one_of_our_errors(trial: Trial, trouble: Trouble, stream: bool) -> None:
    """Every status of the vendor means the same as everybody else's, and is asked once."""
    refusal = trial.vendor.refusal(trouble)
    outcome = await trial.run(refusal, stream=stream)
    check(trial, trouble, outcome)
    assert not outcome.raw
    assert len(trial.upstream.requests) == 1
    if trouble == "rate_limited" and outcome.failure is not None:
        told = {name.lower(): value for name, value in refusal.headers.items()}.get("retry-after")
        assert told is None or outcome.failure.metadata == {"retry_after_s": told}


@TROUBLES
async def test_an_error_frame_in_a_stream_is_one_of_our_errors(trial: Trial, trouble: Trouble) -> None:
    """What came before the frame is passed on, what comes after it is not, and no end is made up."""
    frames = trial.vendor.frames(Content(words=["Alpha", "Omega"]))
    place = next(index for index, frame in enumerate(frames) if b"Omega" in frame)
    steps = [*frames[:place], trial.vendor.error_frame(trouble), *frames[place:]]
    outcome = await trial.run(trial.vendor.stream(steps), stream=True)
    check(trial, trouble, outcome)
    assert outcome.said.text == "Alpha"
    assert not outcome.said.ends


@TROUBLES
async def test_a_stream_may_begin_with_an_error_frame(trial: Trial, trouble: Trouble) -> None:
    """An error in the first frame is the same as a refusal, so that another provider can still be asked."""
    outcome = await trial.run(trial.vendor.stream([trial.vendor.error_frame(trouble)]), stream=True)
    check(trial, trouble, outcome)
    assert not outcome.raw


async def test_a_refusal_works_before_and_after_success(trial: Trial) -> None:
    """A refusal spoils nothing for the next request of the same account."""
    for trouble in (None, *get_args(Trouble), None):
        answer = trial.vendor.answer(Content(words=["fine"])) if trouble is None else trial.vendor.refusal(trouble)
        outcome = await trial.run(answer, stream=False)
        assert (outcome.failure is None) == (trouble is None)
