"""Reading providers' lists: what is told, what is written, and that a bad provider harms nobody."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
from fakes.fake_catalogue_store import FakeCatalogueStore, FakeLister

from quillgate_core.catalogue import Model, ModelUpstream
from quillgate_core.catalogue_basis import CatalogueBasis
from quillgate_core.catalogue_file import ProviderEntry
from quillgate_core.discovery import MAX_DESCRIPTION, MAX_LISTED, Difference, Discovery
from quillgate_core.errors import InvalidRequest, Overloaded, ProviderUnavailable, ScopeMissing
from quillgate_core.live_catalogue import LiveCatalogue
from quillgate_core.pricing import Price, PriceTier
from quillgate_core.principal import PLATFORM_ADMIN, WORKSPACE_ADMIN, Principal
from quillgate_core.upstream import ListedModel

ADMIN = Principal("key_1", 1, "ws_1", frozenset({PLATFORM_ADMIN}))
KNOWN = Model(
    id="maker/known",
    context_window=100,
    max_output_tokens=10,
    upstreams=(ModelUpstream("groq", "known", price=Price("1", "2")),),
)
SAME = ListedModel("known", context_window=100, max_output_tokens=10, price=Price("1", "2"))
NEW = ListedModel("maker/new", context_window=200, max_output_tokens=20, price=Price("3", "4", "0.5"))


async def _at_once(call: Callable[[], Any]) -> Any:
    return call()


class Site:
    """Discovery on fakes: providers `groq` and `together` with lists, `fireworks` without."""

    def __init__(self, timeout_s: float = 60.0) -> None:
        self.store = FakeCatalogueStore()
        providers = {name: ProviderEntry(base_url="https://host/v1") for name in ("groq", "together", "fireworks")}
        self.live = LiveCatalogue(
            CatalogueBasis(providers, (KNOWN,)), providers=["groq", "together", "fireworks"], store=self.store
        )
        self.p, self.q = FakeLister(SAME), FakeLister(SAME)
        listers = {"groq": self.p, "together": self.q}
        self.discovery = Discovery(self.live, self.store, listers, blocking=_at_once, timeout_s=timeout_s)

    async def sync(self, *providers: str, dry_run: bool = False) -> tuple[Difference, ...]:
        """Syncs as the admin and returns the differences."""
        return (await self.discovery.sync(ADMIN, providers, dry_run=dry_run)).differences


@pytest.fixture
def site() -> Site:
    """Discovery that nobody has asked for anything."""
    return Site()


async def test_new_models_are_added(site: Site) -> None:
    """A complete model that nobody knew is told, kept for all replicas, and served at once."""
    site.p.listed = [SAME, NEW]
    detail = "context_window 200, max_output_tokens 20, price 3/4 cached 0.5"
    assert await site.sync("groq") == (Difference("groq", "maker/new", "maker/new", "added", detail),)
    assert site.live.get("maker/new").context_window == 200
    assert {model.upstream_model for model in site.store.state.discovered} == {"known", "maker/new"}
    assert await site.sync("groq") == ()


async def test_a_dry_run_tells_and_does_nothing(site: Site) -> None:
    """The same differences are told, and neither the store nor the catalogue changes."""
    site.p.listed = [SAME, NEW]
    sync = await site.discovery.sync(ADMIN, ["groq"], dry_run=True)
    assert ([difference.change for difference in sync.differences], sync.written) == (["added"], False)
    assert site.store.state.revision == 0
    assert not site.live.catalogue.is_known("maker/new")
    written = await site.discovery.sync(ADMIN, ["groq"])
    assert (written.differences, written.written) == (sync.differences, True)


async def test_changes_are_told_member_by_member(site: Site) -> None:
    """Limits and prices that differ are told as they were and as they are."""
    tier = PriceTier(50, "8", "9")
    site.p.listed = [
        ListedModel("known", context_window=300, max_output_tokens=30, price=Price("1", "2", None, "7", (tier,)))
    ]
    (difference,) = await site.sync("groq")
    assert (difference.change, difference.model_id) == ("changed", "maker/known")
    assert difference.detail == (
        "context_window 100 -> 300, max_output_tokens 10 -> 30, price 1/2 -> 1/2 cache write 7 above 50 8/9"
    )
    assert site.live.get("maker/known").max_output_tokens == 30


async def test_gone_models_are_removed_only_if_they_were_discovered(site: Site) -> None:
    """What a list no longer has is told; a discovered model goes, a bundled one stays."""
    site.p.listed = [SAME, NEW]
    await site.sync("groq")
    site.p.listed = [ListedModel("maker/other", context_window=5)]
    told = {difference.model_id: difference for difference in await site.sync("groq")}
    assert {name: difference.change for name, difference in told.items()} == {
        "maker/other": "added",
        "maker/known": "gone",
        "maker/new": "gone",
    }
    assert [model.id for model in site.live.list()] == ["maker/known", "maker/other"]
    assert site.live.get("maker/known").context_window == 100


async def test_incomplete_models_are_told(site: Site) -> None:
    """A model without a context window is not added, and a known one loses nothing by it."""
    site.p.listed = [ListedModel("known"), ListedModel("maker/new", max_output_tokens=5)]
    (difference,) = await site.sync("groq")
    assert (difference.change, difference.model_id) == ("incomplete", "maker/new")
    assert [model.id for model in site.live.list()] == ["maker/known"]


async def test_another_provider_joins_a_known_model(site: Site) -> None:
    """A provider that lists a known model under its id serves it too, after those that are there."""
    site.q.listed = [ListedModel("maker/known", context_window=100, price=Price("9", "9"))]
    (difference,) = await site.sync("together")
    assert (difference.provider, difference.change) == ("together", "added")
    assert [upstream.provider for upstream in site.live.get("maker/known").upstreams] == ["groq", "together"]


@pytest.mark.parametrize(
    ("lister", "failure"),
    [
        (FakeLister(error=ProviderUnavailable("The provider is away.", provider="groq")), "The provider is away."),
        (FakeLister(error=RuntimeError("secret")), "its list cannot be read"),
        (FakeLister(hangs=True), "no list within 0.05 s"),
        (FakeLister(), "it lists no models"),
        (FakeLister(ListedModel("bad name"), ListedModel("")), "it lists no models"),
    ],
)
async def test_a_bad_provider_changes_nothing(lister: FakeLister, failure: str) -> None:
    """A list that fails, hangs, is empty or nonsense is told as a failure; the other providers are read anyway."""
    site = Site(timeout_s=0.05)
    site.q.listed = [NEW]
    await site.sync("together")
    discovery = Discovery(
        site.live, site.store, {"groq": lister, "together": site.q}, blocking=_at_once, timeout_s=0.05
    )
    before = site.store.state
    site.q.listed = [NEW, ListedModel("maker/more", context_window=5)]
    sync = await discovery.sync(ADMIN)
    assert sync.failures == (f"groq: {failure}",)
    assert [difference.model_id for difference in sync.differences] == ["maker/more"]
    assert set(before.discovered) < set(site.store.state.discovered)


async def test_all_lists_are_read_unless_some_are_named(site: Site) -> None:
    """Every provider with a list is asked by default, a named one once, and one without a list is told."""
    await site.sync()
    await site.sync("together", "together")
    assert (site.p.asked, site.q.asked) == (1, 2)
    sync = await site.discovery.sync(ADMIN, ["fireworks"])
    assert sync.failures == ("fireworks: it is not switched on, or has no list of models",)


async def test_unknown_providers_are_refused(site: Site) -> None:
    """A provider that nobody knows is a mistake of the caller's; nobody is asked."""
    with pytest.raises(InvalidRequest) as caught:
        await site.sync("groq", "nobody")
    assert caught.value.metadata == {"param": "providers[1]", "code": "invalid_value"}
    assert site.p.asked == 0


async def test_only_the_platforms_admin_syncs(site: Site) -> None:
    """Whoever administers a workspace cannot make the gateway ask providers."""
    with pytest.raises(ScopeMissing) as caught:
        await site.discovery.sync(Principal("key_1", 1, "ws_1", frozenset({WORKSPACE_ADMIN})))
    assert caught.value.metadata == {"scope": PLATFORM_ADMIN}
    assert site.p.asked == 0


async def test_what_a_list_holds_is_bounded(site: Site) -> None:
    """A list of any length, a description of any kind, and a price that is none, do no harm."""
    wild = ListedModel(
        "maker/wild",
        context_window=5,
        description="a\x1b[31m\n" + "b" * 10_000,
        price=Price("1e9", "-1"),
        created=-7,
    )
    site.p.listed = [wild, *(ListedModel(f"maker/m{number}", context_window=5) for number in range(MAX_LISTED + 5))]
    await site.sync("groq")
    assert len(site.live.list()) == MAX_LISTED + 1
    model = site.live.get("maker/wild")
    assert model.description.isprintable()
    assert len(model.description) == MAX_DESCRIPTION
    assert (model.upstreams[0].price, model.created) == (None, 0)


async def test_only_due_lists_are_read(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """A core reads the lists that it can claim for the period, and logs what fails without its key or trace."""
    site.p.error = ProviderUnavailable("The provider is away.", provider="groq")
    with caplog.at_level(logging.INFO):
        await site.discovery.sync_due(3_600)
    assert site.store.claims == [("groq", 3_600), ("together", 3_600)]
    assert "models were not read: groq: The provider is away." in caplog.messages
    site.store.free = False
    await site.discovery.sync_due(3_600)
    assert (site.p.asked, site.q.asked) == (1, 1)


async def test_a_database_that_is_away_is_the_callers_to_retry(site: Site) -> None:
    """Without a database nothing is compared, and the failure says so."""
    site.store.away = True
    with pytest.raises(Overloaded):
        await site.sync("groq")
