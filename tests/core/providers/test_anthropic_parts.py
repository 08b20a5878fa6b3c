"""Content parts become Anthropic's blocks, or are refused with their place."""

import base64
from typing import Any

import pytest
from fakes.anthropic_bodies import refusal, turns

PNG = base64.b64encode(b"\x89PNG").decode()
PDF = base64.b64encode(b"%PDF-1.4").decode()
TEXT = base64.b64encode("Zürich".encode()).decode()
LINK = "https://example.com/a"


def image(url: str) -> dict[str, Any]:
    """An image part."""
    return {"type": "image_url", "image_url": {"url": url, "detail": "high"}}


def file(data: str, **members: Any) -> dict[str, Any]:
    """A file part."""
    return {"type": "file", "file": {"file_data": data, **members}}


@pytest.mark.parametrize(
    ("part", "block"),
    [
        (
            image(f"data:image/png;base64,{PNG}"),
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
        ),
        (
            image(f"data:image/jpg;charset=utf-8;base64,{PNG}"),
            {"type": "image", "source": {"type": "base64", "media_type": "image/jpeg", "data": PNG}},
        ),
        (image(LINK), {"type": "image", "source": {"type": "url", "url": LINK}}),
        (
            file(f"data:application/pdf;base64,{PDF}", filename="a.pdf"),
            {
                "type": "document",
                "source": {"type": "base64", "media_type": "application/pdf", "data": PDF},
                "title": "a.pdf",
            },
        ),
        (
            file(f"data:text/markdown;base64,{TEXT}"),
            {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "Zürich"}},
        ),
        (
            file(f"data:image/png;base64,{PNG}"),
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
        ),
        (file(LINK), {"type": "document", "source": {"type": "url", "url": LINK}}),
        (
            {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}},
            {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}},
        ),
        (
            {"type": "text", "text": "a", "prompt_cache_breakpoint": {"mode": "explicit"}},
            {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}},
        ),
    ],
)
def test_parts_become_blocks(part: dict[str, Any], block: dict[str, Any]) -> None:
    """Texts, images and documents, by content or by address, with their marks."""
    assert turns({"role": "user", "content": [part]}) == [("user", [block])]


@pytest.mark.parametrize(
    ("part", "param", "code"),
    [
        ({"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}, "", "unsupported_value"),
        ({"type": "video_url", "video_url": {"url": LINK}}, "", "unsupported_value"),
        ({"type": "file", "file": {"file_id": "file-1"}}, ".file", "unsupported_value"),
        (file("data:application/zip;base64,AA=="), ".file.file_data", "unsupported_value"),
        (file("data:text/plain;base64,/w=="), ".file.file_data", "invalid_value"),
        (file("AA=="), ".file.file_data", "invalid_value"),
        (image("data:image/png,raw"), ".image_url.url", "invalid_value"),
        (image("ftp://example.com/a"), ".image_url.url", "invalid_value"),
    ],
)
def test_parts_that_cannot_be_read_are_refused(part: dict[str, Any], param: str, code: str) -> None:
    """The refusal names the part; a file by id would be somebody else's in the shared account."""
    messages = [{"role": "user", "content": "a"}, {"role": "user", "content": [{"type": "text", "text": "b"}, part]}]
    assert refusal(messages) == (f"messages[1].content[1]{param}", code)


@pytest.mark.parametrize("role", ["system", "assistant"])
def test_only_users_and_tools_show_images(role: str) -> None:
    """Anthropic takes no images from the system or the assistant."""
    messages = [{"role": role, "content": [image(LINK)]}, {"role": "user", "content": "hi"}]
    assert refusal(messages) == ("messages[0].content[0]", "unsupported_value")
