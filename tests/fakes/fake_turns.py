"""An event loop's clock and timers that turn when a test says so, and the CPU time that its turns take."""

from collections.abc import Callable


class FakeTurns:
    """Stands for the loop of a Door, and for the CPU clock of the loop's thread."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.cpu_s = 0.0
        self._due: list[tuple[float, Callable[[], object]]] = []

    def time(self) -> float:
        return self.now_s

    def call_later(self, delay: float, callback: Callable[[], object], /) -> None:
        self._due.append((self.now_s + delay, callback))

    def cpu_time(self) -> float:
        return self.cpu_s

    def turn(self, *, after_s: float = 0.005, cpu_s: float = 0.005) -> None:
        """Begins the next turn after the last one took so long and worked so much."""
        self.now_s += after_s
        self.cpu_s += cpu_s
        ready = [callback for due_s, callback in self._due if due_s <= self.now_s]
        self._due = [entry for entry in self._due if entry[0] > self.now_s]
        for callback in ready:
            callback()
