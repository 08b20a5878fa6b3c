"""A door that a test opens and shuts."""

import asyncio

from quillgate_facade.door import Door, Visitor


class FakeDoor(Door):
    """Lets everybody in, lines everybody up, or turns everybody away, as its fields say."""

    def __init__(self) -> None:
        super().__init__(asyncio.get_running_loop())
        self.is_full = False
        self.has_long_line = False
        self.line: list[Visitor] = []
        self.lined_up = asyncio.Event()

    def enter(self) -> bool:
        return not self.is_full

    def is_shut(self) -> bool:
        return self.has_long_line

    def line_up(self, visitor: Visitor) -> None:
        self.line.append(visitor)
        self.lined_up.set()

    def open(self) -> None:
        """Lets in who is in line, and everybody from now on."""
        self.is_full = self.has_long_line = False
        line, self.line = self.line, []
        for visitor in line:
            if visitor.waiting_bytes:
                visitor.let_in()

    def shut(self) -> None:
        """Turns everybody away from now on."""
        self.is_full = self.has_long_line = True
