"""What clients get of a text completion, and what is charged for it, whatever providers send."""

from typing import Any

import pytest
from fakes.fake_text_provider import USAGE, piece, whole

from quillgate.v1.text_completion_pb2 import TextCompletion
from quillgate_codec import text_completion, text_completion_request
from quillgate_core.counting import Usage
from quillgate_core.errors import ProviderUnavailable
from quillgate_core.text_tally import TextBatch, TextCall, TextTally, WholeTextTally


def _tally(*calls: TextCall, kind: type[TextTally] = TextTally, **members: Any) -> TextTally:
    request = text_completion_request.from_value({"model": "a/m", "prompt": "Hi", **members})
    tally = kind(request, calls or (TextCall(40),), fallback_id="cmpl-r", created=99, provider="p")
    for call in range(len(calls) or 1):
        tally.begin(call)
    return tally


def _take(tally: TextTally, *pieces: TextCompletion, call: int = 0) -> list[Any]:
    return [text_completion.to_value(taken) for taken in tally.take(TextBatch(call, pieces))]


def test_pieces_are_cleaned() -> None:
    """All pieces have the first one's id and created, the model that was asked for, and no usage nor error."""
    tally = _tally()
    taken = _take(
        tally,
        piece("a", usage=USAGE, error=None, provider="X"),
        piece("b", id="other", created=1, object="wrong"),
        piece("", finish="stop"),
    )
    heads = [(item["id"], item["created"], item["model"], item["object"]) for item in taken]
    assert heads == [("cmpl-upstream", 1_700_000_000, "a/m", "text_completion")] * 3
    assert all("usage" not in item and "error" not in item for item in taken)
    assert taken[0]["provider"] == "X"
    assert taken[0]["choices"] == [{"text": "a", "index": 0, "logprobs": None, "finish_reason": None}]
    tally.finish()
    assert tally.usage() == (Usage(10, 0, 5), "provider")


def test_missing_head_is_made() -> None:
    """A provider that sends nothing but texts is completed: id, created, index, null members."""
    bare = TextCompletion()
    bare.choices.add(text="a")
    assert _take(_tally(), bare) == [
        {
            "id": "cmpl-r",
            "object": "text_completion",
            "created": 99,
            "model": "a/m",
            "choices": [{"text": "a", "index": 0, "logprobs": None, "finish_reason": None}],
        }
    ]


@pytest.mark.parametrize("kind", [TextTally, WholeTextTally])
def test_the_providers_id_is_known_where_one_call_is_the_whole(kind: type[TextTally]) -> None:
    """Usage asked for by it later is that of one call, and must not stand for several."""
    one, two = _tally(kind=kind), _tally(TextCall(40), TextCall(40), kind=kind)
    for tally in (one, two):
        tally.take(TextBatch(0, [], ""))
        tally.take(TextBatch(0, [piece("a")], "gen-1"))
        tally.take(TextBatch(0, [piece("b")], "gen-2"))
    assert (one.upstream_id, two.upstream_id) == ("gen-1", "")


def test_null_text_is_a_string() -> None:
    """Clients read the text of every choice as a string."""
    (taken,) = _take(_tally(), piece(choices=[{"text": None, "index": 0, "finish_reason": "stop"}]))
    assert taken["choices"][0]["text"] == ""


def test_finish_reason_comes_once() -> None:
    """An empty reason is none, and an end that is told again, as beside the usage, is left out."""
    tally = _tally()
    taken = _take(tally, piece("a", finish=""), piece("", finish="stop"), piece("", finish="stop", usage=USAGE))
    assert [item["choices"][0]["finish_reason"] for item in taken] == [None, "stop"]
    assert tally.usage()[1] == "provider"


def test_silence_is_left_out() -> None:
    """The first piece of a choice passes on though it is empty, so that a stream begins; more of the same does not."""
    tally = _tally()
    for count in (1, 0, 0):
        silent = TextCompletion()
        silent.choices.add(index=0, text="")
        assert len(_take(tally, silent)) == count


@pytest.mark.parametrize("pieces", [[], [piece("a")], [piece("a", "b"), piece("", finish="stop")]])
def test_cut_stream_is_no_success(pieces: list[TextCompletion]) -> None:
    """Every choice that was begun must end, and there must be one."""
    tally = _tally()
    _take(tally, *pieces)
    with pytest.raises(ProviderUnavailable):
        tally.finish()


def test_every_call_must_be_whole() -> None:
    """The second prompt's missing answer is no success."""
    tally = _tally(TextCall(4), TextCall(4))
    _take(tally, piece("a", finish="stop"))
    tally.check(0)
    with pytest.raises(ProviderUnavailable):
        tally.finish()


def test_usage_of_several_calls_is_summed() -> None:
    """The last sane usage of each call counts; cached and reasoning tokens are told too."""
    details = {"prompt_tokens_details": {"cached_tokens": 4}, "completion_tokens_details": {"reasoning_tokens": 2}}
    tally = _tally(TextCall(4), TextCall(4), stream_options={"include_usage": True})
    _take(
        tally, piece("a", usage={**USAGE, "completion_tokens": 1}), piece("", finish="stop", usage={**USAGE, **details})
    )
    _take(tally, piece("", finish="stop", usage={**USAGE, "cost": 1}), piece(usage={"prompt_tokens": -1}), call=1)
    assert tally.usage() == (Usage(20, 4, 10), "provider")
    (last,) = tally.last()
    value = text_completion.to_value(last)
    assert value["choices"] == []
    assert value["usage"] == {
        "prompt_tokens": 20,
        "completion_tokens": 10,
        "total_tokens": 30,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }


def test_usage_of_one_call_is_the_providers() -> None:
    """Nothing of it is lost."""
    tally = _tally(stream_options={"include_usage": True})
    _take(tally, piece("a", finish="stop", usage={**USAGE, "cost": 0.5}))
    assert text_completion.to_value(tally.last()[0])["usage"] == {**USAGE, "cost": 0.5}


def test_early_usage_grows_with_what_comes_after_it() -> None:
    """A usage that was told before the texts of an answer that was cut does not hide them."""
    tally = _tally()
    _take(tally, piece("", usage={**USAGE, "completion_tokens": 1}), piece("x" * 400))
    assert tally.usage() == (Usage(10, 0, 101), "estimate")
    _take(tally, piece("", finish="stop"))
    assert tally.usage() == (Usage(10, 0, 1), "provider")


def test_no_usage_piece_unless_asked_for() -> None:
    """A client that did not ask sees none."""
    assert _tally().last() == []


def test_estimate() -> None:
    """A call without usage is estimated, the echo costing nothing; calls that were not begun cost nothing."""
    request = text_completion_request.from_value({"model": "a/m", "prompt": "Hi"})
    calls = (TextCall(40, "echo" * 100), TextCall(40), TextCall(40))
    tally = TextTally(request, calls, fallback_id="i", created=1, provider="p")
    assert tally.usage() == (Usage(), "provider")
    tally.begin(0)
    tally.begin(1)
    _take(tally, piece("x" * 8, finish="stop"))
    _take(tally, piece("y", finish="stop", usage=USAGE), call=1)
    assert tally.usage() == (Usage(20, 0, 7), "estimate")


def test_echo_comes_once_for_each_choice() -> None:
    """The prompt stands before the first piece of every choice of its call."""
    tally = _tally(TextCall(4, "Q: "), TextCall(4, "R: "))
    taken = _take(tally, piece("a", "b"), piece("c"))
    taken += _take(tally, piece(choices=[{"index": 2, "text": ""}]), call=1)
    texts = [[choice["text"] for choice in item["choices"]] for item in taken]
    assert texts == [["Q: a", "Q: b"], ["c"], ["R: "]]


def test_whole_answer_is_gathered() -> None:
    """Nothing passes before the end; then the choices of all calls come in order, with the first call's members."""
    tally = _tally(TextCall(4), TextCall(4, "Q"), kind=WholeTextTally)
    assert _take(tally, whole(choices=[{"index": 1, "text": "b"}]), call=1) == []
    assert _take(tally, whole("a", usage=None, system_fingerprint="late")) == []
    assert not tally.started
    tally.finish()
    (answer,) = (text_completion.to_value(item) for item in tally.last())
    assert [(choice["text"], choice["index"]) for choice in answer["choices"]] == [("a", 0), ("Qb", 1)]
    assert answer["usage"]["prompt_tokens"] == 11
    assert "system_fingerprint" not in answer
    assert tally.usage()[1] == "estimate"


def test_whole_answer_keeps_what_the_provider_said() -> None:
    """Log probabilities and members that nobody here knows survive."""
    choice = {"text": "a", "index": 0, "logprobs": {"tokens": ["a"]}, "finish_reason": "length", "matched_stop": 7}
    tally = _tally(kind=WholeTextTally)
    _take(tally, whole(choices=[choice], provider="X"))
    answer = text_completion.to_value(tally.last()[0])
    assert (answer["choices"], answer["provider"], answer["usage"]) == ([choice], "X", USAGE)
