"""Every vendor's adapter against servers that misbehave: each outcome is one of our errors or a sane answer, in bounded
time and memory.

| Group | Misbehaviours |
|---|---|
| no answer | empty body; web page with 200; web page with 502; plain text; no content-type; 204; 304; 302; 307 |
| no answer | status 599 |
| no JSON | cut JSON; JSON array; JSON number; JSON null; JSON text; JSON empty object; JSON false; JSON NaN |
| characters | half a character; bytes that are no UTF-8; NUL bytes; NUL escapes; lone surrogates; byte order mark |
| lines | CRLF; CR; no space after the colon; comments only; comments between; events without data |
| lines | retry and id fields |
| endless | line of 8 MiB; event of 5 MiB; endless white space; endless comments; trickling comments |
| endless | trickling white space |
| forms | stream as text/plain; stream as JSON; JSON as stream; stream where JSON is due; JSON where a stream is due |
| coding | gzip unasked; gzip in name only; gzip bomb |
| HTTP | length too long; length too long, open; length too short; length negative; length twice; bad chunk sizes |
| HTTP | HTTP 1.0 without length; no HTTP; informational answer first; huge header; many headers; endless head |
| connection | reset before the head; closed before the head; reset after the head; closed within a frame |
| silence | silent before the head; silent after the head; silent within the stream; silent refusal |
| usage | usage negative; usage of a billion; usage beyond integers; more cached than prompt; usage missing |
| usage | usage of zeros; usage twice |
| members | unknown members everywhere; null for every list; null for every number; texts for every number |
| members | fractions for every number; lists for every object; empty lists; empty objects in lists; lists of nulls |
| order | the end twice; every frame twice; data after the end; junk after the end; gaps in indexes |
| depth | 1,000 levels deep; 100,000 levels deep |
"""

import tracemalloc

import pytest
from conformance.misbehaviours import CONTENT, MIB, MISBEHAVIOURS, TEXT, Misbehaviour, Wire
from conformance.test_vendor_troubles import assert_without_key
from conformance.trial import Outcome, Trial
from conformance.vendor import Content, Spent
from conformance.wire_changes import usage_twice
from fakes.raw_upstream import RawUpstream
from fakes.scripted_upstream import Step

from quillgate_codec import chat_answer, chat_chunk
from quillgate_core.counting import Usage, sane
from quillgate_core.errors import Overloaded, ProviderRejected, ProviderTimeout, ProviderUnavailable

OURS = (ProviderRejected, ProviderUnavailable, ProviderTimeout, Overloaded)
BOTH_WAYS = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


def test_the_table_names_every_misbehaviour() -> None:
    """What stands at the top of this file is what is tried."""
    rows = [line.split("|")[2] for line in (__doc__ or "").splitlines() if line.startswith("| ")][1:]
    listed = [name.strip() for row in rows for name in row.split(";")]
    assert listed == [misbehaviour.name for misbehaviour in MISBEHAVIOURS]
    assert len(listed) >= 30


@BOTH_WAYS
@pytest.mark.parametrize("misbehaviour", MISBEHAVIOURS, ids=lambda misbehaviour: misbehaviour.name)
async def test_a_misbehaving_server_gives_an_error_of_ours_or_an_answer(
    trial: Trial, misbehaviour: Misbehaviour, stream: bool
) -> None:
    """No other exception, no hang, no second request, and no answer that cannot be written or charged."""
    answer = misbehaviour.make(trial.vendor, stream)
    if answer is None:
        return
    if isinstance(answer, Wire):
        async with RawUpstream(answer.steps) as upstream:
            outcome = await trial.run(None, stream=stream, limits=misbehaviour.limits, base_url=upstream.base_url)
            assert upstream.requests == 1
    else:
        outcome = await trial.run(answer, stream=stream, limits=misbehaviour.limits)
        assert len(trial.upstream.requests) == 1
    check(outcome, misbehaviour)


def check(outcome: Outcome, misbehaviour: Misbehaviour) -> None:
    """Asserts that the outcome is what the misbehaviour must come to."""
    if outcome.failure is None:
        assert misbehaviour.expected != "fails"
        assert misbehaviour.expected == "either" or outcome.said.text == TEXT
        check_answer(outcome)
        return
    assert misbehaviour.expected != "answers", outcome.failure
    assert isinstance(outcome.failure, OURS)
    assert_without_key(outcome.failure)


def check_answer(outcome: Outcome) -> None:
    """Asserts that an answer can be written for a client and charged."""
    if outcome.answer is not None:
        chat_answer.to_json(outcome.answer)
    for chunk in outcome.clean:
        chat_chunk.to_json(chunk)
    assert outcome.usage is not None
    assert outcome.usage == sane(outcome.usage)[0]
    assert outcome.usage != Usage()


async def test_the_last_sane_usage_counts(trial: Trial) -> None:
    """Usage that is told twice replaces, and never adds up."""
    frames = usage_twice(trial.vendor, ["a"], Spent(10, 0, 5), Spent(20, 0, 9))
    outcome = await trial.run(trial.vendor.stream([frames]), stream=True)
    assert outcome.usage in (Usage(20, 0, 9), Usage(10, 0, 9), Usage(10, 0, 5))


@pytest.mark.parametrize("what", ["line", "event", "frames"])
async def test_an_endless_line_or_event_costs_little_memory(trial: Trial, what: str) -> None:
    """Whatever comes without end, less than 32 MiB are held of it."""
    first = trial.vendor.frames(CONTENT)[0]
    pieces = {
        "line": b"x" * MIB,
        "event": (b"data: " + b"x" * 1017 + b"\n") * 1024,
        "frames": (b": " + b"x" * 8188 + b"\n\n") * 128,
    }
    answer = trial.vendor.stream([first, *[pieces[what]] * 80, Step.HANG])
    tracemalloc.start()
    try:
        outcome = await trial.run(answer, stream=True)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert isinstance(outcome.failure, ProviderUnavailable)
    assert peak < 32 * MIB


async def test_a_good_answer_follows_every_misbehaviour(trial: Trial) -> None:
    """A server that recovers is served again by the same account."""
    for misbehaviour in MISBEHAVIOURS:
        answer = misbehaviour.make(trial.vendor, True)
        if answer is None or isinstance(answer, Wire) or Step.HANG in [*answer.steps, *answer.before]:
            continue
        if any(isinstance(step, float) for step in answer.steps):
            continue
        await trial.run(answer, stream=True)
        outcome = await trial.say(Content(words=["fine"]), stream=True)
        assert outcome.failure is None, misbehaviour.name
        assert outcome.said.text == "fine"
