"""What a key grants, and the rule that no key grants more than the one that made or changed it has.

Pure: values in, values or an error out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime

from quillgate_core.errors import InvalidRequest, ModelNotAllowed
from quillgate_core.key import KeyLimits
from quillgate_core.names import check_name
from quillgate_core.principal import SCOPES, Principal

MAX_ALLOWED_MODELS = 200
MAX_LIMIT = 10**12
"""The most that any limit of a key may be, in its unit; small enough to be added up safely."""
EVERY_MODEL = "*"
"""Stands in an error for "every model", which no allow-list contains."""


def check_scopes(scopes: Sequence[str]) -> tuple[str, ...]:
    """Return the scopes once each, in the order of SCOPES. Raises InvalidRequest if there is none or an unknown one."""
    if not scopes:
        raise InvalidRequest("A key needs at least one scope.", param="scopes")
    for index, scope in enumerate(scopes):
        if scope not in SCOPES:
            raise InvalidRequest(f"There is no such scope; choose from {', '.join(SCOPES)}.", param=f"scopes[{index}]")
    return tuple(scope for scope in SCOPES if scope in scopes)


def check_models(models: Sequence[str]) -> tuple[str, ...]:
    """Return the model ids once each, in their order. Raises InvalidRequest for one that can be no model's id."""
    if len(models) > MAX_ALLOWED_MODELS:
        raise InvalidRequest(f"A key may list at most {MAX_ALLOWED_MODELS} models.", param="allowed_models")
    for index, model in enumerate(models):
        check_name(model, param=f"allowed_models[{index}]")
    return tuple(dict.fromkeys(models))


def check_future(expire_time: datetime | None, now: datetime) -> None:
    """Raise InvalidRequest if the expiry is over already."""
    if expire_time is not None and expire_time <= now:
        raise InvalidRequest("'expire_time' must be in the future.", param="expire_time")


def check_limits(limits: KeyLimits) -> KeyLimits:
    """Return the limits. Raises InvalidRequest for the first that is negative or greater than MAX_LIMIT."""
    for name, value in asdict(limits).items():
        if value is not None and not 0 <= value <= MAX_LIMIT:
            raise InvalidRequest(f"A limit must be between 0 and {MAX_LIMIT}.", param=f"limits.{name}")
    return limits


def inherit_limits(principal: Principal, limits: KeyLimits) -> KeyLimits:
    """Return the limits with the caller's own wherever none is given."""
    own = asdict(principal.limits)
    return KeyLimits(**{name: own[name] if value is None else value for name, value in asdict(limits).items()})


def refuse_more_scopes(principal: Principal, scopes: Sequence[str]) -> None:
    """Raise ScopeMissing, naming the first scope that the caller lacks itself."""
    for scope in scopes:
        principal.require(scope)


def refuse_more_models(principal: Principal, models: Sequence[str]) -> None:
    """Raise ModelNotAllowed if the caller has an allow-list and the models, or "every model", go beyond it."""
    if principal.allowed_models and not models:
        raise ModelNotAllowed(EVERY_MODEL)
    for model in models:
        principal.require_model(model)


def refuse_later_expiry(principal: Principal, expire_time: datetime | None, *, param: str) -> None:
    """Raise InvalidRequest if a caller that ends some day asks for what ends later or never."""
    if principal.expire_time is None:
        return
    if expire_time is None or expire_time > principal.expire_time:
        raise InvalidRequest("A key may not outlast the key that makes, changes or rotates it.", param=param)


def refuse_higher_limits(principal: Principal, limits: Mapping[str, int | None], *, param: str = "") -> None:
    """Raise InvalidRequest if one of the limits, by name, is above the caller's own; no limit is above every limit.

    The error names `param`, or else the limit.
    """
    for name, value in limits.items():
        own = getattr(principal.limits, name)
        if own is not None and (value is None or value > own):
            raise InvalidRequest(
                f"A key's `{name}` may be {own} at most, as that of the key that makes, changes or rotates it.",
                param=param or f"limits.{name}",
            )
