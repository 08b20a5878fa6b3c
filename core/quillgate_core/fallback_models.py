"""`models: [...]`, OpenRouter's way to name other models that may answer: read here, and never sent on. Pure."""

from typing import Any, Final, Protocol, TypeVar

import msgspec

from quillgate_core.errors import InvalidRequest

MAX_MODELS: Final = 8
"""Most models that a request may name besides its own."""


class Asking(Protocol):
    """A request of any endpoint that a language model serves."""

    model: str
    extra_json: bytes

    def CopyFrom(self, other: Any) -> None:  # noqa: N802
        """Makes this message the same as the other."""

    def ClearField(self, name: Any) -> None:  # noqa: N802
        """Makes a field absent."""


RequestT = TypeVar("RequestT", bound=Asking)


def named_models(request: RequestT) -> tuple[RequestT, tuple[str, ...]]:
    """Returns the request without `models`, and the models to ask, its own first and none twice.

    A request that names none of its own asks the first of them. The request itself stays as it is. Raises
    InvalidRequest.
    """
    if b'"models"' not in request.extra_json:
        return request, (request.model,)
    try:
        # Raw: what is not read here goes on as it came, numbers of any length included.
        members = msgspec.json.decode(request.extra_json, type=dict[str, msgspec.Raw])
    except msgspec.DecodeError:
        return request, (request.model,)  # whoever checks the request says what is wrong with it
    if "models" not in members:
        return request, (request.model,)
    others = _checked(msgspec.json.decode(members.pop("models")))
    plain = type(request)()
    plain.CopyFrom(request)
    plain.ClearField("extra_json")
    if members:
        plain.extra_json = msgspec.json.encode(members)
    if not plain.model and others:
        plain.model = others[0]
    return plain, tuple(dict.fromkeys((plain.model, *others)))


def _checked(value: Any) -> list[str]:
    if value is None:
        return []
    if type(value) is not list or not all(type(item) is str and item for item in value):
        raise InvalidRequest(
            "Invalid value for 'models': it must be a list of ids.", param="models", code="invalid_type"
        )
    if len(value) > MAX_MODELS:
        raise InvalidRequest(
            f"Invalid value for 'models': it may name at most {MAX_MODELS}.", param="models", code="invalid_value"
        )
    return value
