"""Base URLs that workspaces bring: a narrow form that every parser reads alike, https unless the operator allows."""

from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from quillgate_core.errors import InvalidRequest
from quillgate_core.provider_base_url import MAX_CHARACTERS, check_base_url, is_allowed_base_url
from quillgate_core.providers.address_guard import url_denial

GOOD = [
    "https://api.example.com/v1",
    "https://api.example.com",
    "https://API.Example.com:8443/openai/deployments/gpt-4.1/",
    "https://xn--mnchen-3ya.example/",
    "https://api.example.com./v1",
    "https://9.9.9.9/v1",
    "https://[2620:fe::fe]:8443/v1",
    "https://under_score.example/a~b/c%20d@e",
]
BAD = [
    "http://api.example.com/v1",
    "HTTPS://api.example.com",
    "ftp://api.example.com",
    "//api.example.com",
    "api.example.com/v1",
    "https://",
    "https:///v1",
    "https://user@api.example.com",
    "https://user:hunter2@api.example.com",
    "https://api.example.com?key=hunter2",
    "https://api.example.com/v1?",
    "https://api.example.com/#hunter2",
    "https://good.example\\@hunter2.example/",
    "https://api.example.com:0/",
    "https://api.example.com:65536/",
    "https://api.example.com:/",
    "https://api.example.com:80x/",
    "https://exämple.com/",
    "https://api.example.com/ hunter2",
    "https://api.example.com/\n",
    "https://api.example.com/\x00",
    " https://api.example.com",
    "https://[::1",
    "https://[....]/",
    "https://[1.2.3.4]/",
    "https://xn--a/",
    "https://xn--1-.example/",
    "https://a..b/",
    "https://.example/",
    "https://-a.example/",
    "https://a-/",
    "https://" + "a" * 64 + ".example/",
    "https://::1/",
    "file:///etc/passwd",
    "https://api.example.com/" + "a" * MAX_CHARACTERS,
]
NOT_PUBLIC = [
    "https://169.254.169.254/",
    "https://10.0.0.1/v1",
    "https://127.0.0.1:8443/v1",
    "https://[::1]/v1",
    "https://[::ffff:10.0.0.1]/v1",
    "https://[64:ff9b::a00:1]/v1",
    "https://[fd00::5]/v1",
    "https://203.0.113.9/v1",
    "https://168.63.129.16/v1",
    "https://2130706433/v1",
    "https://127.1/v1",
    "https://0x7f000001/v1",
    "https://127.0.0.1./v1",
    "https://localhost/v1",
    "https://vllm:8443/v1",
]


def _nobody(host: str, port: int) -> bool:
    return False


@pytest.mark.parametrize("base_url", GOOD)
def test_public_https_is_taken(base_url: str) -> None:
    """It is kept as it was written, without the last slashes; empty stays empty."""
    assert check_base_url(base_url, _nobody, url_denial) == base_url.rstrip("/")
    assert check_base_url("", _nobody, url_denial) == ""


@pytest.mark.parametrize("base_url", NOT_PUBLIC)
def test_host_that_shows_what_it_is_is_refused_at_once(base_url: str) -> None:
    """An address that is not public, in whatever notation, and a local name are told when set, unless allowed."""
    with pytest.raises(InvalidRequest, match="public host") as caught:
        check_base_url(base_url, _nobody, url_denial)
    assert caught.value.metadata == {"param": "base_url", "code": "invalid_value"}
    assert check_base_url(base_url, lambda host, port: True, url_denial) == base_url.rstrip("/")


@pytest.mark.parametrize("base_url", BAD)
def test_anything_else_is_refused_unrepeated(base_url: str) -> None:
    """The refusal names the member and never shows the URL, which may hold a secret."""
    with pytest.raises(InvalidRequest) as caught:
        check_base_url(base_url, _nobody, url_denial)
    assert caught.value.metadata == {"param": "base_url", "code": "invalid_value"}
    assert "hunter2" not in caught.value.message


@pytest.mark.parametrize(
    ("base_url", "asked"),
    [
        ("http://vllm.internal:8000/v1", ("vllm.internal", 8000)),
        ("http://VLLM.internal", ("vllm.internal", 80)),
        ("https://[FD00::5]", ("fd00::5", 443)),
    ],
)
def test_what_the_operator_allows_may_be_http(base_url: str, asked: tuple[str, int]) -> None:
    """The operator is asked with the host in small letters, without brackets, and the port that is connected to."""
    seen: list[tuple[str, int]] = []

    def allows(host: str, port: int) -> bool:
        seen.append((host, port))
        return True

    assert check_base_url(base_url, allows, url_denial) == base_url
    assert is_allowed_base_url(base_url, allows)
    assert set(seen) == {asked}
    assert not is_allowed_base_url(base_url, _nobody)
    assert not is_allowed_base_url("nonsense", allows)


@given(
    st.text(st.sampled_from("htps:/@\\.?#[]%aA1é \t"), max_size=30)
    | st.from_regex(r"https?://[!-~]{1,30}")
    | st.from_regex(r"\Ahttps://(xn--)?[a-z0-9_.-]{1,12}(:[0-9]{1,5})?/[!-~]{0,8}\Z")
    | st.from_regex(r"\Ahttps://\[[0-9a-f:.]{2,12}\]/\Z")
)
def test_all_parsers_agree_on_what_passes(base_url: str) -> None:
    """The host that was checked is the host that the standard library and the HTTP client see."""
    seen: list[str] = []
    try:
        check_base_url(base_url, _nobody, url_denial)
    except InvalidRequest:
        return
    if base_url:
        is_allowed_base_url(base_url, lambda host, port: bool(seen.append(host)))  # type: ignore[func-returns-value]
        assert URL(base_url).user is URL(base_url).password is None
        assert [urlsplit(base_url).hostname] == seen
        assert (URL(base_url).raw_host or "").lower() == seen[0]
