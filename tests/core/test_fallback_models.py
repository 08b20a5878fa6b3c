"""`models: [...]` is read, bounded and never sent on; everything else stays as it came."""

import pytest

from quillgate.v1.chat_completion_pb2 import ChatCompletionRequest, ChatMessage
from quillgate.v1.response_pb2 import ResponseRequest
from quillgate.v1.text_completion_pb2 import TextCompletionRequest
from quillgate_core.errors import InvalidRequest
from quillgate_core.fallback_models import MAX_MODELS, named_models


def chat(model: str, extra_json: bytes) -> ChatCompletionRequest:
    """A request with further members."""
    return ChatCompletionRequest(model=model, extra_json=extra_json, messages=[ChatMessage(role="user")])


@pytest.mark.parametrize("extra_json", [b"", b'{"top_k":5}', b'{"user":"\\"models\\""}'])
def test_one_model_is_the_rule(extra_json: bytes) -> None:
    """Without the member the request itself is what is sent."""
    request = chat("a", extra_json)
    assert named_models(request) == (request, ("a",))
    assert named_models(request)[0] is request


def test_models_follow_the_request_s_own() -> None:
    """Its own first and none twice; the member goes, the request of the caller stays whole."""
    request = chat("a", b'{"models":["b","a","c","b"],"top_k":5}')
    plain, models = named_models(request)
    assert models == ("a", "b", "c")
    assert (plain.model, plain.extra_json, plain.messages[0].role) == ("a", b'{"top_k":5}', "user")
    assert b"models" in request.extra_json


def test_first_of_the_list_stands_in_for_no_model() -> None:
    """A request may name its models in the list alone."""
    plain, models = named_models(chat("", b'{"models":["b","c"]}'))
    assert (plain.model, models) == ("b", ("b", "c"))
    assert not plain.HasField("extra_json")


@pytest.mark.parametrize("value", [b"null", b"[]"])
def test_empty_lists_name_nobody(value: bytes) -> None:
    """They are no mistake, and not sent on either."""
    plain, models = named_models(chat("a", b'{"models":' + value + b"}"))
    assert models == ("a",)
    assert not plain.HasField("extra_json")


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (b'"b"', "invalid_type"),
        (b"{}", "invalid_type"),
        (b"[1]", "invalid_type"),
        (b'[""]', "invalid_type"),
        (b"[" + b",".join([b'"b"'] * (MAX_MODELS + 1)) + b"]", "invalid_value"),
    ],
)
def test_other_values_are_refused(value: bytes, code: str) -> None:
    """The refusal names the member."""
    with pytest.raises(InvalidRequest) as caught:
        named_models(chat("a", b'{"models":' + value + b"}"))
    assert caught.value.metadata == {"param": "models", "code": code}


@pytest.mark.parametrize("extra_json", [b'{"models"', b'["models"]', b'"models"', b'{"models":[\xff]}'])
def test_what_is_no_object_is_left_to_the_check(extra_json: bytes) -> None:
    """Over gRPC the members may be anything; that is for the check of the whole request to refuse."""
    assert named_models(chat("a", extra_json))[1] == ("a",)


def test_what_stands_beside_it_goes_on_as_it_came() -> None:
    """Numbers keep their digits, which a decoder would change."""
    plain, _ = named_models(chat("a", b'{"models":["b"],"n":1.10,"big":123456789012345678901234567890}'))
    assert plain.extra_json == b'{"n":1.10,"big":123456789012345678901234567890}'


@pytest.mark.parametrize("kind", [ResponseRequest, TextCompletionRequest])
def test_every_endpoint_has_it(kind: type[ResponseRequest] | type[TextCompletionRequest]) -> None:
    """Responses and text completions read it alike."""
    plain, models = named_models(kind(model="a", extra_json=b'{"models":["b"]}'))
    assert (type(plain), models) == (kind, ("a", "b"))
