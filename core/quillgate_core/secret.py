"""A text that must not be printed: provider keys, master keys, passwords. Must not know where the text comes from."""


class Secret:
    """A text that shows as `***` wherever it is printed, formatted or logged; `reveal` is the one way out."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Returns the text; call it where the text is used, never earlier."""
        return self._text

    def __repr__(self) -> str:
        return "***"
