"""Secrets print as stars."""

from quillgate_core.secret import Secret


def test_a_secret_shows_nowhere() -> None:
    """A secret prints as stars, alone, formatted and inside other things."""
    secret = Secret("house-key-42")
    assert [str(secret), repr(secret), f"{secret}", f"{[secret]}"] == ["***", "***", "***", "[***]"]


def test_a_secret_is_revealed_on_demand() -> None:
    """The text itself is had by asking for it."""
    assert Secret("house-key-42").reveal() == "house-key-42"
