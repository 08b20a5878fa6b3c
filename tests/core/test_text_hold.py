"""A text completion's hold is an upper bound, over all its prompts and all the attempts that a provider makes."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from quillgate.v1.text_completion_pb2 import TextCompletionRequest
from quillgate_core.catalogue import Model, ModelUpstream
from quillgate_core.counting import TOKENS_PER_MESSAGE, Usage, counted_messages
from quillgate_core.holds import text_hold

UPSTREAMS = (ModelUpstream("a", "1"), ModelUpstream("b", "2"), ModelUpstream("c", "3"))
MODEL = Model("m", 128_000, 8_192, UPSTREAMS)


def test_every_prompt_and_attempt_is_held() -> None:
    """The bound is of the prompts' tokens and of the limit for max(n, best_of) choices of each prompt."""
    hold = text_hold(TextCompletionRequest(max_tokens=1_000, n=2, best_of=5), MODEL, prompts=3, prompt_tokens=9_000)
    assert (hold.prompt_tokens, hold.output_tokens, hold.choices) == (9_000, 1_000, 15)
    assert (hold.hold_messages, hold.min_hold_messages, hold.lowered_output_tokens) == (2, 1, None)


def test_limits_of_the_model() -> None:
    """Without a limit the model's own counts, one above it is lowered, and a prompt is no longer than its window."""
    hold = text_hold(TextCompletionRequest(), MODEL, prompts=2, prompt_tokens=10**9)
    assert (hold.prompt_tokens, hold.output_tokens, hold.lowered_output_tokens) == (256_000, 8_192, None)
    hold = text_hold(TextCompletionRequest(max_tokens=9_000), MODEL, prompts=1, prompt_tokens=1)
    assert (hold.output_tokens, hold.lowered_output_tokens) == (8_192, 8_192)


def test_no_output_at_all() -> None:
    """A limit of 0 is a limit, and costs the prompt alone."""
    hold = text_hold(TextCompletionRequest(max_tokens=0), MODEL, prompts=1, prompt_tokens=100)
    assert (hold.output_tokens, hold.hold_messages, hold.min_hold_messages) == (0, 1, 1)


@given(
    max_tokens=st.none() | st.integers(0, 20_000),
    n=st.none() | st.integers(1, 128),
    prompts=st.integers(1, 50),
    prompt_tokens=st.integers(0, 10**6),
    data=st.data(),
)
def test_hold_covers_every_usage_within_the_bounds(
    max_tokens: int | None, n: int | None, prompts: int, prompt_tokens: int, data: Any
) -> None:
    """No usage within the limits counts more, nor, when the limit is lowered to fit less, more than what was held."""
    request = TextCompletionRequest(max_tokens=max_tokens, n=n)
    hold = text_hold(request, MODEL, prompts=prompts, prompt_tokens=prompt_tokens)
    assert 1 <= hold.min_hold_messages <= hold.hold_messages
    assert counted_messages(Usage(hold.prompt_tokens, 0, hold.output_tokens * hold.choices)) <= hold.hold_messages
    held = data.draw(st.integers(hold.min_hold_messages, hold.hold_messages))
    assert hold.min_hold_tokens <= hold.hold_tokens <= hold.hold_messages * TOKENS_PER_MESSAGE
    held_tokens = data.draw(st.none() | st.integers(hold.min_hold_tokens, hold.hold_tokens))
    limit = hold.output_tokens_within(held, held_tokens)
    if limit is not None:
        assert 0 <= limit <= hold.output_tokens
        assert hold.prompt_tokens + limit * hold.choices <= min(
            held * TOKENS_PER_MESSAGE, hold.hold_tokens if held_tokens is None else held_tokens
        )
    else:
        assert held == hold.hold_messages
        assert held_tokens in (None, hold.hold_tokens)
