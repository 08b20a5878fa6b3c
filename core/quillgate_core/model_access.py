"""Which model a caller means and may use: ids and aliases against the allow-list of its key. Pure."""

from collections.abc import Set

from quillgate_core.catalogue import NO_PROVIDERS, Model, Models
from quillgate_core.errors import ModelNotAllowed, ModelNotFound
from quillgate_core.principal import Principal


def usable_model(models: Models, principal: Principal, asked: str, own: Set[str] = NO_PROVIDERS) -> Model:
    """Returns the model of an id or alias, with the upstreams that can be asked.

    An allow-list that names the model allows its aliases, and one that names an alias allows that alias alone. Raises
    ModelNotAllowed or ModelNotFound; of what is not on its list a key does not learn whether it exists.
    """
    try:
        model = models.get(asked, own)
    except ModelNotFound:
        principal.require_model(asked)
        raise
    if not principal.may_use(model.id) and not principal.may_use(asked):
        raise ModelNotAllowed(asked)
    return model
