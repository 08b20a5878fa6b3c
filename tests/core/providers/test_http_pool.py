"""The pool over real https: what a host that is not trusted gets when all is well, and what the two kinds share."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from fakes.provider_site import REQUEST
from fakes.scripted_upstream import DEFAULT_TEXT, ScriptedAnswer, ScriptedUpstream
from fakes.small_internet import PROVIDER, PROVIDER_IDN, FakeResolver, Trap, make_certificates, open_trap

from quillgate_core.errors import ProviderUnavailable
from quillgate_core.providers.address_guard import denial
from quillgate_core.providers.http_pool import HttpPool
from quillgate_core.providers.openai_compatible import OpenAICompatible
from quillgate_core.providers.provider_limits import ProviderLimits
from quillgate_core.secret import Secret

OTHER = "other.example"


class HttpsSite:
    """An https server, a pool that takes 127.0.0.1 for public, and names that lead to it."""

    def __init__(self, upstream: ScriptedUpstream, client: ssl.SSLContext, server: ssl.SSLContext) -> None:
        self.upstream = upstream
        self.client = client
        self.server_names: list[str | None] = []
        server.sni_callback = lambda _socket, name, _context: self.server_names.append(name)
        self.addresses = {PROVIDER: [["127.0.0.1"]], f"{PROVIDER}.": [["127.0.0.1"]], OTHER: [["127.0.0.1"]]}
        self.addresses[PROVIDER_IDN] = [["127.0.0.1"]]
        self.judged: list[str] = []
        self.pool = self.open_pool()

    def open_pool(self) -> HttpPool:
        """Makes a pool on this internet."""
        return HttpPool(resolver=lambda: FakeResolver(self.addresses), deny=self._deny, certificates=self.client)

    def provider(self, host: str = PROVIDER, *, is_trusted: bool = False) -> OpenAICompatible:
        """Makes a provider whose base URL has the host."""
        return OpenAICompatible(
            name="fake",
            base_url=f"https://{host}:{self.upstream.port}/v1",
            api_key=Secret("house-key-42"),
            pool=self.pool,
            is_trusted=is_trusted,
            limits=ProviderLimits(connect_s=3, first_byte_s=5, stall_s=5),
        )

    async def ask(self, host: str = PROVIDER, *, is_trusted: bool = False) -> str:
        """Asks for a chat and returns the answer's text."""
        provider = self.provider(host, is_trusted=is_trusted)
        prepared = provider.prepare_chat(REQUEST, model="m", stream=False, max_output_tokens=None)
        return (await provider.create_chat(prepared)).choices[0].message.content.text

    def _deny(self, address: str) -> str | None:
        self.judged.append(address)
        return None if address == "127.0.0.1" else denial(address)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[HttpsSite]:
    """The site, its connections closed afterwards."""
    server, client = make_certificates(tmp_path)
    async with ScriptedUpstream(tls=server) as upstream:
        site = HttpsSite(upstream, client, server)
        yield site
        await site.pool.close()


@pytest.mark.parametrize(
    ("host", "server_name"),
    [(PROVIDER, PROVIDER), (f"{PROVIDER}.", PROVIDER), (PROVIDER.upper(), PROVIDER), ("bücher.example", PROVIDER_IDN)],
)
async def test_the_server_is_asked_by_its_name(site: HttpsSite, host: str, server_name: str) -> None:
    """The guard leaves the name alone: the server is asked for it, and must prove it, as if there were no guard."""
    assert await site.ask(host) == DEFAULT_TEXT
    assert site.server_names == [server_name]
    assert site.upstream.requests[0].headers["host"].removesuffix(f":{site.upstream.port}").rstrip(".") == server_name
    assert site.judged == ["127.0.0.1"]


async def test_a_server_that_cannot_prove_its_name_hears_nothing(site: HttpsSite) -> None:
    """A public address is not enough: without the certificate of the name nothing is sent."""
    with pytest.raises(ProviderUnavailable) as caught:
        await site.ask(OTHER)
    assert caught.value.message == "The provider `fake` could not be reached."
    assert site.upstream.requests == []


@pytest.mark.parametrize(
    "addresses",
    [
        ["10.0.0.1", "127.0.0.1"],
        ["::1", "127.0.0.1"],
        ["::1", "fd00::1", "10.0.0.1", "169.254.169.254", "127.0.0.1"],
        ["127.0.0.1", "::1", "10.0.0.1"],
    ],
)
async def test_the_next_address_is_tried_when_one_is_denied(site: HttpsSite, addresses: list[str]) -> None:
    """A denied address does not spoil those that are public."""
    site.addresses[PROVIDER] = [addresses]
    async with asyncio.timeout(3):
        assert await site.ask() == DEFAULT_TEXT
    assert site.judged[-1] == "127.0.0.1"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("target", ["http://127.0.0.1:{port}/", "https://[::1]:{port}/", "http://169.254.169.254/"])
async def test_redirects_lead_nowhere(site: HttpsSite, status: int, target: str) -> None:
    """A redirect is a failure, wherever it points: nothing is sent a second time."""
    with open_trap() as trap:
        location = target.replace("{port}", str(trap.port))
        site.upstream.script(ScriptedAnswer(status, {"location": location}))
        with pytest.raises(ProviderUnavailable):
            await site.ask()
        assert trap.count() == 0
    assert len(site.upstream.requests) == 1


async def test_a_connection_is_reused_by_its_own_kind_only(site: HttpsSite) -> None:
    """A connection that was made without a look at its address never serves a host that is not trusted."""
    for _ in range(2):
        await site.ask(is_trusted=True)
    assert site.judged == []
    assert site.upstream.connections == 1
    for _ in range(2):
        await site.ask(is_trusted=False)
    assert site.judged == ["127.0.0.1"]
    assert site.upstream.connections == 2
    await site.ask(is_trusted=True)
    assert site.upstream.connections == 2


async def test_every_new_connection_is_judged(site: HttpsSite) -> None:
    """A name that was fine a moment ago is judged again, with what it resolves to now or did before."""
    site.addresses[PROVIDER] = [["127.0.0.1"], ["10.0.0.1"]]
    assert await site.ask() == DEFAULT_TEXT
    await site.pool.close()
    site.addresses[PROVIDER] = [["10.0.0.1"]]
    with pytest.raises(ProviderUnavailable):
        await site.ask()
    assert site.judged == ["127.0.0.1", "10.0.0.1"]


async def test_a_trusted_host_may_be_private(site: HttpsSite) -> None:
    """What the operator named is not judged at all."""
    with open_trap() as trap:
        await _knock(site.pool, trap)
        assert trap.count() == 1
    assert site.judged == []


async def _knock(pool: HttpPool, trap: Trap) -> None:
    with pytest.raises((aiohttp.ClientError, TimeoutError)):
        timeout = aiohttp.ClientTimeout(total=0.3)
        await pool.session(is_trusted=True).get(f"http://127.0.0.1:{trap.port}/", timeout=timeout)
