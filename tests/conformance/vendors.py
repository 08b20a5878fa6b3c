"""Finds the vendors of the provider suite: the `VENDOR` of every file `vendor_<name>.py` beside this one."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from conformance.vendor import Vendor


def found_vendors() -> Sequence[Vendor]:
    """Returns every vendor, by the names of their files."""
    files = sorted(Path(__file__).parent.glob("vendor_*.py"))
    return [import_module(f"conformance.{path.stem}").VENDOR for path in files]


VENDORS = found_vendors()
