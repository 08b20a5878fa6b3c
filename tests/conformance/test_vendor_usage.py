"""What every vendor's usage counts: its documented usage objects become the right numbers of messages."""

import pytest
from conformance.trial import Trial, asking
from conformance.vendor import Content, Spent

from quillgate_core.counting import Usage, counted_messages

BOTH_WAYS = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


@BOTH_WAYS
async def test_golden_usages_are_counted(trial: Trial, stream: bool) -> None:
    """Each documented usage object means what the vendor says, cached tokens included in the prompt's."""
    vendor = trial.vendor
    assert vendor.usages()
    for reported, expected in vendor.usages():
        answer = vendor.stream(vendor.frames_with_usage(reported)) if stream else vendor.answer_with_usage(reported)
        outcome = await trial.run(answer, stream=stream)
        assert outcome.failure is None
        assert outcome.usage is not None
        assert (outcome.usage, outcome.usage_source) == (expected, "provider"), reported
        assert counted_messages(outcome.usage) == counted_messages(expected)


async def test_golden_usages_hold_cached_tokens(trial: Trial) -> None:
    """The vectors of a vendor that has a cache of prompts show how it counts them."""
    assert any(usage.cached_tokens for _, usage in trial.vendor.usages()) or trial.vendor.name in WITHOUT_CACHE


#: Vendors whose usage never tells cached tokens.
WITHOUT_CACHE = frozenset({"ollama"})


@BOTH_WAYS
async def test_cached_tokens_are_inside_the_prompts(trial: Trial, stream: bool) -> None:
    """However a vendor counts, the prompt's tokens include the cached ones, so they are charged half."""
    outcome = await trial.say(Content(words=["a"], spent=Spent(1000, 0, 7)), stream=stream)
    assert outcome.usage == Usage(1000, 0, 7)
    if trial.vendor.name in WITHOUT_CACHE:
        return
    outcome = await trial.say(Content(words=["a"], spent=Spent(1000, 600, 7)), stream=stream)
    assert outcome.usage == Usage(1000, 600, 7)


async def test_usage_is_told_to_a_client_that_asked(trial: Trial) -> None:
    """The last chunk carries the usage in OpenAI's form."""
    outcome = await trial.say(Content(words=["a"], spent=Spent(1000, 0, 7)), stream=True)
    usage = outcome.clean[-1].usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (1000, 7, 1007)


async def test_usage_is_not_told_to_a_client_that_did_not_ask(trial: Trial) -> None:
    """Usage is asked for always, and kept from clients that do not expect it."""
    outcome = await trial.say(Content(words=["a"]), stream=True, request=asking())
    assert not any(chunk.HasField("usage") for chunk in outcome.clean)
    assert outcome.usage_source == "provider"


@BOTH_WAYS
async def test_an_answer_without_usage_is_estimated(trial: Trial, stream: bool) -> None:
    """A vendor that says nothing of usage still costs something, and the estimate says that it is one."""
    outcome = await trial.say(Content(words=["a" * 400], spent=None), stream=stream)
    assert outcome.failure is None
    assert outcome.usage is not None
    assert outcome.usage_source == "estimate"
    assert outcome.usage.completion_tokens >= 100
