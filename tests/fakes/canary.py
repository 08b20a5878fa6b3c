"""Looks for planted secrets in everything that is kept or said, in each form in which one could hide."""

import base64
from collections.abc import Iterable
from dataclasses import dataclass, field

from sqlalchemy import Engine, text

_TABLES = text("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public' ORDER BY table_name")


def forms_of(secret: bytes) -> set[str]:
    """Returns a secret as text, in hexadecimal and in base64, wherever in a longer text it would begin."""
    shifted = (base64.b64encode(b"x" * shift + secret)[4 * bool(shift) :] for shift in range(3))
    return {secret.decode("latin-1"), secret.hex(), *(form[: len(form) - 4].decode() for form in shifted)}


def dump(engine: Engine) -> str:
    """Returns every row of every table as text, bytes in hexadecimal."""
    with engine.connect() as connection:
        names = connection.execute(_TABLES).scalars().all()
        rows = [row for name in names for row in connection.execute(text(f'SELECT t::text FROM "{name}" t')).scalars()]
    return "\n".join(rows)


@dataclass
class Canary:
    """The secrets that were planted, by name; `heard` collects what was said."""

    secrets: dict[str, bytes]
    heard: list[str] = field(default_factory=list)

    def hear(self, *said: object) -> None:
        """Notes what was said, as text and as `repr`."""
        self.heard += [form for item in said for form in (str(item), repr(item))]

    def found_in(self, texts: Iterable[str]) -> set[str]:
        """Names the secrets that are in any of the texts."""
        joined = "\n".join(texts).lower()
        return {
            name for name, secret in self.secrets.items() if any(form.lower() in joined for form in forms_of(secret))
        }
