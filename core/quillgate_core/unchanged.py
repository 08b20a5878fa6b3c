"""The value of a member that a change leaves as it is, where None already means "none" or "no limit"."""

from enum import Enum


class Unchanged(Enum):
    """The type of UNCHANGED."""

    UNCHANGED = "unchanged"


UNCHANGED = Unchanged.UNCHANGED
"""Leave the member as it is."""
