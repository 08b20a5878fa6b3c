"""The operator's changes of the catalogue while running: models switched on and off, and aliases.

Enforces who may change what, and that names do not collide. Knows no SQL and no gRPC.
"""

import re
from typing import Final

from quillgate_core.catalogue import KnownModel
from quillgate_core.errors import AliasTaken, InvalidRequest, ModelNotFound
from quillgate_core.live_catalogue import CatalogueStore, LiveCatalogue
from quillgate_core.principal import PLATFORM_ADMIN, Principal

_ALIAS: Final = re.compile(r"[!-~]{1,200}")


class ModelSwitches:
    """Shows and changes what is served; changes hold here at once, and on other replicas when they look next."""

    def __init__(self, live: LiveCatalogue, store: CatalogueStore) -> None:
        self._live = live
        self._store = store

    def list(self, principal: Principal) -> tuple[KnownModel, ...]:
        """Returns every model that is known, served or not, sorted by id; raises ScopeMissing."""
        principal.require(PLATFORM_ADMIN)
        return self._live.known()

    def set_enabled(self, principal: Principal, model_id: str, *, enabled: bool) -> KnownModel:
        """Switches a model on or off and returns it; raises ScopeMissing, ModelNotFound or Overloaded."""
        principal.require(PLATFORM_ADMIN)
        _require(model_id, "id")
        self._find(model_id)
        self._store.set_enabled(model_id, enabled=enabled)
        self._live.refresh()
        return self._find(model_id)

    def set_alias(self, principal: Principal, alias: str, model_id: str) -> KnownModel:
        """Lets an alias mean a model, and returns the model.

        Raises ScopeMissing, InvalidRequest, ModelNotFound, AliasTaken or Overloaded.
        """
        principal.require(PLATFORM_ADMIN)
        _require(alias, "alias")
        _require(model_id, "model_id")
        if _ALIAS.fullmatch(alias) is None:
            raise InvalidRequest("An alias is 1 to 200 visible ASCII characters.", param="alias", code="invalid_value")
        if self._live.catalogue.is_known(alias):
            raise AliasTaken(alias)
        self._find(model_id)
        self._store.set_alias(alias, model_id)
        self._live.refresh()
        return self._find(model_id)

    def delete_alias(self, principal: Principal, alias: str) -> None:
        """Forgets an alias; raises ScopeMissing, InvalidRequest, ModelNotFound or Overloaded."""
        principal.require(PLATFORM_ADMIN)
        _require(alias, "alias")
        if not self._store.delete_alias(alias):
            if alias in self._live.basis.aliases:
                raise InvalidRequest("The operator's file states this alias.", param="alias", code="invalid_value")
            raise ModelNotFound(alias)
        self._live.refresh()

    def _find(self, model_id: str) -> KnownModel:
        found = self._live.catalogue.find(model_id)
        if found is None:
            raise ModelNotFound(model_id)
        return found


def _require(value: str, param: str) -> None:
    if not value:
        message = f"Missing required parameter: '{param}'."
        raise InvalidRequest(message, param=param, code="missing_required_parameter")
