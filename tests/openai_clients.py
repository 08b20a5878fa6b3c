"""The official OpenAI client, as tests ask for it."""

from collections.abc import Callable

from openai import AsyncOpenAI

Connect = Callable[..., AsyncOpenAI]
"""Makes a client of the running service with a key, by default its developer key; it is closed after the test."""
