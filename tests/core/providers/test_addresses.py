"""Where requests go and what they carry, Azure's two forms among them."""

import pytest

from quillgate_core.providers.addresses import addresses, sent_headers
from quillgate_core.providers.dialects import DIALECTS, UNKNOWN
from quillgate_core.providers.provider_http import versioned_base_url
from quillgate_core.secret import Secret

AZURE = "https://me.openai.azure.com"


@pytest.mark.parametrize(
    ("vendor", "base_url", "address"),
    [
        ("groq", "https://api.groq.com/openai/v1/", "https://api.groq.com/openai/v1/chat/completions"),
        ("azure", AZURE + "/openai/v1/", AZURE + "/openai/v1/chat/completions"),
        (
            "azure",
            AZURE + "/",
            AZURE + "/openai/deployments/my%2Fgpt%204/chat/completions?api-version=2024-10-21",
        ),
        (
            "azure",
            AZURE + "/openai",
            AZURE + "/openai/deployments/my%2Fgpt%204/chat/completions?api-version=2024-10-21",
        ),
        ("ollama", "http://127.0.0.1:11434", "http://127.0.0.1:11434/v1/chat/completions"),
        ("vllm", "http://127.0.0.1:8000/own/v1", "http://127.0.0.1:8000/own/v1/chat/completions"),
        ("", "http://127.0.0.1:8000", "http://127.0.0.1:8000/chat/completions"),
    ],
)
def test_every_vendor_has_its_addresses(vendor: str, base_url: str, address: str) -> None:
    """A path is appended to the base URL; a dated version of Azure's API names the deployment too."""
    found = addresses(DIALECTS.get(vendor, UNKNOWN), base_url, {})
    assert found.of("/chat/completions", "my/gpt 4") == address


@pytest.mark.parametrize(
    ("version", "is_new"), [("2024-06-01", False), ("2024-08-01-preview", False), ("2024-09-01-preview", True)]
)
def test_older_versions_of_azure_refuse_what_came_later(version: str, is_new: bool) -> None:
    """The version is chosen by a header of the settings, and decides about usage in streams and the limit's name."""
    found = addresses(DIALECTS["azure"], AZURE, {"Api-Version": version})
    assert found.of("/models") == f"{AZURE}/openai/models?api-version={version}"
    assert (found.takes_stream_options, found.takes_completion_limit) == (is_new, is_new)


def test_the_key_is_where_the_vendor_looks_for_it() -> None:
    """Azure has a header of its own; without a key there is none."""
    key = Secret("k-42")
    assert sent_headers(DIALECTS["groq"], key, {})["authorization"] == "Bearer k-42"
    azure = sent_headers(DIALECTS["azure"], key, {"API-Version": "2024-06-01"})
    assert azure["api-key"] == "k-42"
    assert not {"authorization", "api-version"} & set(azure)
    assert "authorization" not in sent_headers(UNKNOWN, None, {})


def test_settings_win_over_the_dialects_headers() -> None:
    """OpenRouter is told whose traffic it is, in the operator's words if there are any."""
    assert sent_headers(DIALECTS["openrouter"], None, {})["x-title"] == "Quillgate"
    headers = sent_headers(DIALECTS["openrouter"], None, {"X-Title": "Mine", "HTTP-Referer": "https://mine.example"})
    assert (headers["x-title"], headers["http-referer"]) == ("Mine", "https://mine.example")


@pytest.mark.parametrize(
    ("base_url", "versioned"),
    [
        ("https://api.anthropic.com", "https://api.anthropic.com/v1"),
        ("https://api.anthropic.com/", "https://api.anthropic.com/v1"),
        ("https://api.anthropic.com/v1/", "https://api.anthropic.com/v1"),
        ("http://127.0.0.1:8000/proxy/v1beta", "http://127.0.0.1:8000/proxy/v1beta"),
        ("http://127.0.0.1:8000/anthropic", "http://127.0.0.1:8000/anthropic/v1"),
    ],
)
def test_version_is_added_where_it_is_missing(base_url: str, versioned: str) -> None:
    """The vendor's own clients take a base URL without it, and it may stand in the variable that both read."""
    assert versioned_base_url(base_url, "v1") == versioned
