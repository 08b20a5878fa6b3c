"""Few packages: each one that a running service imports is one more that can be attacked."""

import importlib.metadata

from house.runtime_packages import runtime_packages

MAX_PACKAGES = 25
OUR_OWN = {"quillgate", "quillgate-proto"}


def test_a_runtime_installation_is_small() -> None:
    """Installing `quillgate` without extras brings at most 25 packages besides our own two."""
    packages = runtime_packages("quillgate", importlib.metadata.requires) - OUR_OWN
    assert {"aiohttp", "grpcio", "psycopg-binary"} <= packages
    assert len(packages) <= MAX_PACKAGES, sorted(packages)


def test_the_walk_follows_extras_and_markers() -> None:
    """Packages of packages count once, extras only where they are asked for, markers as they apply, circles end."""
    stated = {
        "top": ["Left_Part[fast]>=1", "right; python_version >= '3'", "never; python_version < '3'", "x; extra == 'x'"],
        "left-part": ["right", "speed; extra == 'fast'", "slow; extra == 'slow'"],
        "right": ["left.part"],
    }
    assert runtime_packages("top", stated.get) == {"left-part", "right", "speed"}
