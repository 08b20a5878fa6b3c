"""Finds out what an installation brings with it, from the requirements that distributions state. Fetches nothing."""

from collections.abc import Callable, Iterable

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def runtime_packages(name: str, requirements: Callable[[str], Iterable[str] | None]) -> frozenset[str]:
    """Names all packages that `name`, without extras, needs here: with the extras asked for, and where markers apply.

    `requirements` gives a distribution's own, as `importlib.metadata.requires` does.
    """
    found: set[tuple[str, str]] = set()
    todo = [(name, "")]
    while todo:
        package, extra = todo.pop()
        for requirement in map(Requirement, requirements(package) or ()):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                key = canonicalize_name(requirement.name)
                wanted = {(key, wanted_extra) for wanted_extra in ("", *requirement.extras)} - found
                found |= wanted
                todo += wanted
    return frozenset(package for package, _ in found)
