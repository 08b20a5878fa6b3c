"""From a model's id to the candidates for one request: whose keys, which upstreams, in which order.

A workspace with keys of its own for providers of the model is served through these alone, or, where every one of them
allows that, by the gateway's after them. It must not send anything, nor know what is asked.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from quillgate_core.catalogue import Endpoint, Model, Models
from quillgate_core.deadlines import Deadlines
from quillgate_core.errors import InvalidRequest, Overloaded, ProviderCredentialRejected
from quillgate_core.model_access import usable_model
from quillgate_core.own_keys import OwnKey, OwnKeys, WorkspaceKeys
from quillgate_core.principal import Principal
from quillgate_core.retry_budget import RetryBudget
from quillgate_core.routing import Candidate, Ranked, UpstreamView, rank, retry_after_s
from quillgate_core.upstream import Account
from quillgate_core.upstream_health import UpstreamHealth

MAX_ATTEMPTS: Final = 2
"""How many upstreams one request is sent to at most, unless configured otherwise."""

TOTAL_S: Final = 600.0
"""How long all attempts of one request together may take to their first output, in seconds."""

MAX_KNOWN: Final = 10_000
"""Most lists of candidates that are kept."""


class Route(msgspec.Struct, frozen=True):
    """The candidates for one request, best first, never none; and the own keys that were looked at."""

    candidates: tuple[Candidate, ...]
    credential_revision: int


class NoOwnKeys:
    """The OwnKeys of a gateway whose workspaces have none."""

    def of(self, workspace_id: str) -> WorkspaceKeys:
        """Returns none."""
        return WorkspaceKeys()

    def refresh(self) -> None:
        """Does nothing."""


class Router:
    """Chooses; `house` are the gateway's own accounts by provider. Belongs to one event loop."""

    def __init__(
        self,
        models: Models,
        house: Mapping[str, Account],
        *,
        own_keys: OwnKeys | None = None,
        health: UpstreamHealth | None = None,
        budget: RetryBudget | None = None,
        max_attempts: int = MAX_ATTEMPTS,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._models = models
        self._house = house
        self.own_keys: OwnKeys = own_keys or NoOwnKeys()
        self.health = health or UpstreamHealth()
        self.budget = budget or RetryBudget()
        self.max_attempts = max_attempts
        self.deadlines = Deadlines(TOTAL_S)
        self._chance = chance
        self._houses: dict[tuple[str, Endpoint, int], tuple[Model, list[Candidate]]] = {}
        """The gateway's own candidates for each model, as long as the catalogue has the same one."""

    def own_providers(self, workspace_id: str) -> frozenset[str]:
        """Returns the providers with which the workspace has a key of its own."""
        return frozenset(self.own_keys.of(workspace_id).keys)

    def usable_model(self, principal: Principal, asked: str) -> Model:
        """Returns the model of an id or alias that a key may ask for; raises ModelNotAllowed and ModelNotFound."""
        return usable_model(self._models, principal, asked, self.own_providers(principal.workspace_id))

    def route(self, workspace_id: str, models: Sequence[Model], endpoint: Endpoint, *, session: str = "") -> Route:
        """Returns whom to ask, for the first of the models and then for the others.

        `session` names the conversation within the workspace. Raises Overloaded when nobody can be asked now,
        InvalidRequest when nobody ever can, and ProviderCredentialRejected when that is for an unusable own key.
        """
        keys = self.own_keys.of(workspace_id)
        found = self._all_candidates(workspace_id, keys, models, endpoint)
        if len(found) == 1 and found[0].rank == 0 and self.health.is_free(found[0]):
            return Route((found[0],), keys.revision)
        ranked = self._rank(found, workspace_id, session, self.health.glance)
        eligible = tuple(place.candidate for place in ranked if place.eligible)
        if not any(place.candidate.rank == 0 for place in ranked):
            _require_usable(keys, models[0])
        if not ranked:
            message = f"No provider of the model `{models[0].id}` that may serve this workspace speaks `{endpoint}`."
            raise InvalidRequest(message, param="model", code="unsupported_value")
        if not eligible:
            raise Overloaded(
                f"No upstream of the model `{models[0].id}` is available right now. Please retry shortly.",
                retry_after_s=retry_after_s(ranked),
            )
        return Route(eligible, keys.revision)

    def explain(self, workspace_id: str, model: Model, endpoint: Endpoint, *, session: str = "") -> list[Ranked]:
        """Returns every candidate with its place and the reason for it, those that would not be asked last."""
        keys = self.own_keys.of(workspace_id)
        found = self._all_candidates(workspace_id, keys, [model], endpoint)
        ranked = self._rank(found, workspace_id, session, self.health.view)
        named = {place.candidate.upstream for place in ranked}
        unable = [
            Ranked(candidate, self.health.view(candidate), False, reason)
            for candidate, reason in self._unable(workspace_id, keys, model, endpoint)
            if candidate.upstream not in named
        ]
        return ranked + unable

    def _rank(
        self,
        found: Sequence[Candidate],
        workspace_id: str,
        session: str,
        view: Callable[[Candidate], UpstreamView],
    ) -> list[Ranked]:
        name = f"{workspace_id}\0{session}" if session else ""
        return rank(found, view, session=name, chance=self._chance)

    def _all_candidates(
        self, workspace_id: str, keys: WorkspaceKeys, models: Sequence[Model], endpoint: Endpoint
    ) -> list[Candidate]:
        found: list[Candidate] = []
        for place, model in enumerate(models):
            found += self._candidates(workspace_id, keys, model, endpoint, place)
        return found

    def _candidates(
        self, workspace_id: str, keys: WorkspaceKeys, model: Model, endpoint: Endpoint, place: int
    ) -> list[Candidate]:
        """Returns those of one model that speak the endpoint; a key that cannot be opened is as good as refused."""
        if not keys.keys:
            return self._house_candidates(model, endpoint, place)
        found = [
            self._candidate(
                model, number, account, endpoint, place, owner=workspace_id, allow_fallback=own.allow_fallback
            )
            for number, upstream in enumerate(model.upstreams)
            if (own := keys.keys.get(upstream.provider)) is not None and (account := _opened(own)) is not None
        ]
        found = [candidate for candidate in found if _serves(candidate.account, endpoint)]
        return found + self._house_candidates(model, endpoint, place) if _may_use_house(keys, model) else found

    def _house_candidates(self, model: Model, endpoint: Endpoint, place: int) -> list[Candidate]:
        known = self._houses.get((model.id, endpoint, place))
        if known is not None and known[0] is model:
            return known[1]
        found = [
            self._candidate(model, number, self._house[upstream.provider], endpoint, place)
            for number, upstream in enumerate(model.upstreams)
            if upstream.provider in self._house and _serves(self._house[upstream.provider], endpoint)
        ]
        if len(self._houses) >= MAX_KNOWN:
            self._houses.clear()
        self._houses[model.id, endpoint, place] = (model, found)
        return found

    def _candidate(
        self,
        model: Model,
        number: int,
        account: Account,
        endpoint: Endpoint,
        place: int,
        *,
        owner: str = "",
        allow_fallback: bool = False,
    ) -> Candidate:
        upstream = model.upstreams[number]
        return Candidate(
            model,
            upstream,
            account,
            priority=number if upstream.priority is None else upstream.priority,
            rank=place,
            owner=owner,
            allow_fallback=allow_fallback,
            is_native=_is_native(account, endpoint),
        )

    def _unable(
        self, workspace_id: str, keys: WorkspaceKeys, model: Model, endpoint: Endpoint
    ) -> list[tuple[Candidate, str]]:
        """Returns the upstreams of the model that are no candidates, and why."""
        unable = []
        for number, upstream in enumerate(model.upstreams):
            own = keys.keys.get(upstream.provider)
            account = self._house.get(upstream.provider) or Account(upstream.provider)
            if own is not None and _opened(own) is None:
                reason = "the workspace's own key cannot be read"
            elif own is None and not _may_use_house(keys, model):
                reason = "the workspace brings its own keys for this model, and does not allow others"
            elif own is None and upstream.provider not in self._house:
                reason = "the gateway has no key for it"
            else:
                reason = f"its provider does not speak `{endpoint}`"
            unable.append((self._candidate(model, number, account, endpoint, 0), reason))
        return unable


def _opened(own: OwnKey) -> Account | None:
    try:
        return own.open()
    except ProviderCredentialRejected:
        return None


def _require_usable(keys: WorkspaceKeys, model: Model) -> None:
    """Raises ProviderCredentialRejected for an own key that cannot be opened."""
    for upstream in model.upstreams:
        if upstream.provider in keys.keys:
            keys.keys[upstream.provider].open()


def _may_use_house(keys: WorkspaceKeys, model: Model) -> bool:
    """Whether the gateway's own keys may serve: the workspace has none for the model, or all that it has allow it."""
    own = [keys.keys[upstream.provider] for upstream in model.upstreams if upstream.provider in keys.keys]
    return all(key.allow_fallback for key in own)


def _serves(account: Account, endpoint: Endpoint) -> bool:
    """Whether the endpoint can be served there: every one but speech can be translated to chat."""
    if endpoint == "audio.transcriptions":
        return account.transcriptions is not None
    return account.chat is not None or _is_native(account, endpoint)


def _is_native(account: Account, endpoint: Endpoint) -> bool:
    if endpoint == "chat.completions":
        return account.chat is not None
    if endpoint == "completions":
        return account.text is not None
    if endpoint == "responses":
        return account.responses is not None
    return account.transcriptions is not None
