"""Update masks: which fields a caller wants changed."""

from collections.abc import Set

from google.protobuf.field_mask_pb2 import FieldMask

from quillgate_core.errors import InvalidRequest


def masked(mask: FieldMask, changeable: Set[str]) -> frozenset[str]:
    """Returns the named fields; raises InvalidRequest for none, or for one that cannot be changed."""
    named = frozenset(mask.paths)
    unknown = sorted(named - changeable)
    if unknown or not named:
        what = f"names '{unknown[0]}'" if unknown else "is empty"
        allowed = ", ".join(sorted(changeable))
        raise InvalidRequest(f"update_mask {what}; it may name: {allowed}.", param="update_mask", code="invalid_value")
    return named
