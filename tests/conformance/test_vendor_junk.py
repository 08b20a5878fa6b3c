"""Every member of every vendor's answers replaced by something else: whatever a server sends, no foreign exception."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from conformance.test_vendor_misbehaviour import OURS, check_answer
from conformance.trial import Outcome, Trial
from conformance.vendor import Call, Content, Vendor
from conformance.wire_changes import body_of, changed_frame, headers_of, places, replaced
from fakes.scripted_upstream import ScriptedAnswer

CONTENT = Content(
    words=["Alpha"],
    thought="Well then.",
    calls=[Call("call_1", "weather", '{"city": "Bern"}')],
    end="tool_calls",
)
JUNK: tuple[Any, ...] = (None, -1, 1.5, 10**30, True, "", "x", [], [None], ["x"], {}, {"x": 1})
#: For streams, which have many more places: one of each kind.
LITTLE_JUNK: tuple[Any, ...] = (None, -1, "x", [5], {"x": 1})


def junk_answers(vendor: Vendor) -> Iterator[tuple[str, ScriptedAnswer]]:
    """Whole answers, each with one member that is not what it should be."""
    value = json.loads(body_of(vendor.answer(CONTENT)))
    headers = headers_of(vendor, stream=False)
    for path in places(value):
        for junk in JUNK:
            body = json.dumps(replaced(value, path, junk)).encode()
            yield f"{path} = {junk!r}", ScriptedAnswer(200, headers, [body])


def junk_streams(vendor: Vendor) -> Iterator[tuple[str, ScriptedAnswer]]:
    """Streams, each with one member of one frame that is not what it should be."""
    frames = vendor.frames(CONTENT)
    for number, frame in enumerate(frames):
        found: list[Any] = []
        changed_frame(frame, lambda value, found=found: found.append(value) or value)  # type: ignore[misc]
        for path in places(found[0]) if found else ():
            for junk in LITTLE_JUNK:
                other = changed_frame(frame, lambda value, path=path, junk=junk: replaced(value, path, junk))  # type: ignore[misc]
                stream = vendor.stream([b"".join([*frames[:number], other, *frames[number + 1 :]])])
                yield f"frame {number} {path} = {junk!r}", stream


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_no_junk_gets_through(trial: Trial, stream: bool) -> None:
    """Any JSON in the place of any member gives an error of ours, or an answer that can be written and charged."""
    for what, answer in junk_streams(trial.vendor) if stream else junk_answers(trial.vendor):
        outcome = await _outcome(trial, answer, what, stream=stream)
        if outcome.failure is None:
            check_answer(outcome)
        else:
            assert isinstance(outcome.failure, OURS), what


async def _outcome(trial: Trial, answer: ScriptedAnswer, what: str, *, stream: bool) -> Outcome:
    try:
        return await trial.run(answer, stream=stream)
    except Exception as error:
        error.add_note(what)
        raise
