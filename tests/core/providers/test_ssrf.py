"""Providers whose host nobody vouches for: whatever their base URL, nothing on this machine or network hears of it.

Each form is sent through the real provider over the real pool, and a second time by the pool alone, past the check of
URLs, so that it also fails on the address that is connected to. A trap listens on every address of this machine.
"""

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from typing import Any, Final

import aiohttp
import pytest
from fakes.provider_site import REQUEST
from fakes.small_internet import FakeResolver, Trap, open_trap

from quillgate_core.catalogue_file import ProviderConfig
from quillgate_core.errors import ProviderUnavailable
from quillgate_core.providers.accounts import make_account
from quillgate_core.providers.http_pool import HttpPool
from quillgate_core.providers.openai_compatible import OpenAICompatible
from quillgate_core.providers.provider_error import ProviderErrors
from quillgate_core.providers.provider_http import ProviderHttp
from quillgate_core.providers.provider_limits import ProviderLimits
from quillgate_core.secret import Secret

LIMITS: Final = ProviderLimits(connect_s=3.0, first_byte_s=5.0, stall_s=5.0)
KEY: Final = "own-key-canary-42"

LOOPBACK: Final = [
    *("127.0.0.1", "127.1", "127.0.1", "127.255.255.254", "2130706433", "0x7f000001", "0x7f.1", "0x7f.0x0.0x0.0x1"),
    *("017700000001", "0177.0.0.1", "0177.1", "127.0x1", "00000177.0.0.01", "0", "0.0.0.0", "0x0", "00", "127.0.0.1."),
    *("127.1.", "localhost", "localhost.", "LOCALHOST", "LocalHost.", "①②⑦.⓪.⓪.①", "１２７.０.０.１", "127。0。0。1"),
    *("127．0．0．1", "127｡0｡0｡1", "ⓛⓞⓒⓐⓛⓗⓞⓢⓣ", "ＬＯＣＡＬＨＯＳＴ", "０x7f.１", "%31%32%37.0.0.1", "127%2e0%2e0%2e1"),
    *("127.0.0.1%00.example.com", "[::1]", "[::]", "[0:0:0:0:0:0:0:1]", "[0000::0001]", "[::0.0.0.1]", "[0:0::1]"),
    *("[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[0:0:0:0:0:FFFF:7F00:0001]", "[::127.0.0.1]", "[::7f00:1]"),
    *("[::ffff:0:127.0.0.1]", "[64:ff9b::127.0.0.1]", "[64:ff9b::7f00:1]", "[64:ff9b:1::127.0.0.1]"),
    *("[2002:7f00:1::]", "[2002:7f00:1::1]", "[2001:0:7f00:1::]", "[2001:0:4136:e378:8000:63bf:80ff:fffe]"),
    *(
        "[fe80::1%25lo]",
        "[::1%25lo]",
        "[::1%lo]",
        "[fe80::5efe:127.0.0.1]",
        "[2a00::5efe:127.0.0.1]",
        "[::ffff:0.0.0.0]",
    ),
]
"""Spellings of this machine, or what some program takes for one."""

METADATA: Final = [
    *("169.254.169.254", "169.254.43518", "169.16689662", "2852039166", "0xa9fea9fe", "0xa9.0xfe.0xa9.0xfe"),
    *("025177524776", "0251.0376.0251.0376", "169.254.169.254.", "[::ffff:169.254.169.254]", "[::a9fe:a9fe]"),
    *("[64:ff9b::a9fe:a9fe]", "[2002:a9fe:a9fe::1]", "[fd00:ec2::254]", "168.63.129.16", "100.100.100.200"),
    *(
        "192.0.0.192",
        "１６９.２５４.１６９.２５４",
        "169。254。169。254",
        "10.0.0.1",
        "192.168.0.1",
        "172.16.0.1",
        "[fec0::1]",
    ),
    *("255.255.255.255", "224.0.0.1", "[ff02::1]", "198.18.0.1", "240.0.0.1", "192.88.99.1", "[fc00::1]", "100.64.0.1"),
]
"""Spellings of what hands out a cloud's credentials, and of private and special addresses."""

TRICKS: Final = [
    "https://good.example@127.0.0.1:{port}/v1",
    "https://good.example:443@127.0.0.1:{port}/v1",
    "https://good.example%40@127.0.0.1:{port}/v1",
    "https://127.0.0.1:{port}\\@good.example/v1",
    "https://good.example\\@127.0.0.1:{port}/v1",
    "https://127.0.0.1:{port}#@good.example/v1",
    "https://127.0.0.1:{port}?@good.example/v1",
    "https://127.0.0.1:{port}/v1?x=",
    "https://127.0.0.1:{port};good.example/v1",
    "https://127.0.0.1:{port}:443/v1",
    "https://127.0.\t0.1:{port}/v1",
    "https://127.0.0.1\n:{port}/v1",
    "\thttps://127.0.0.1:{port}/v1",
    " https://127.0.0.1:{port}/v1",
    "https://127.0.0.1:{port} /v1",
    "https:127.0.0.1:{port}/v1",
    "https:/127.0.0.1:{port}/v1",
    "https:///127.0.0.1:{port}/v1",
    "https:\\\\127.0.0.1:{port}\\v1",
    "//127.0.0.1:{port}/v1",
    "http://127.0.0.1:{port}/v1",
    "HTTP://127.0.0.1:{port}/v1",
    "tcp://127.0.0.1:{port}/v1",
    "http+unix://%2Frun%2Fdocker.sock/v1",
    "unix:///run/docker.sock",
    "file:///etc/passwd",
    "https://[127.0.0.1]:{port}/v1",
    "https://[::1:{port}/v1",
    "https://[::1].:{port}/v1",
    "https://::1:{port}/v1",
    "https://" + "a" * 64 + ".example:{port}/v1",
    "https://a..example:{port}/v1",
    "https://127.0.0.1\u200b:{port}/v1",
    "https://loc\u00adalhost:{port}/v1",
]
"""URLs that different programs read differently."""

PRIVATE: Final = ["127.0.0.1", "::1", "::ffff:127.0.0.1", "0.0.0.0", "169.254.169.254", "64:ff9b::7f00:1", "fe80::1%lo"]


@pytest.fixture
def trap() -> Iterator[Trap]:
    """Listens on all of this machine's addresses; every test ends with nobody having come who was not expected."""
    with open_trap() as trap:
        yield trap
        assert trap.count() == 0


async def refused(base_url: str, pool: HttpPool | None = None) -> str:
    """Ask an account with the base URL of a workspace for a chat, and return what its caller hears."""
    pool = pool or HttpPool()
    provider = make_account(ProviderConfig("fake", base_url, Secret(KEY)), pool, LIMITS, byok=True).chat
    assert provider is not None
    try:
        with pytest.raises(ProviderUnavailable) as caught:
            await provider.create_chat(provider.prepare_chat(REQUEST, model="m", stream=False, max_output_tokens=None))
    finally:
        await pool.close()
    return caught.value.message


async def fails_in_the_pool(url: str, pool: HttpPool | None = None, *, is_trusted: bool = False) -> None:
    """Ask for a URL with the pool alone: past every check but the one of the address that is connected to."""
    pool = pool or HttpPool()
    try:
        timeout = aiohttp.ClientTimeout(total=3)
        with pytest.raises((aiohttp.ClientError, OSError, ValueError, TimeoutError)):
            await pool.session(is_trusted=is_trusted).get(url, allow_redirects=False, timeout=timeout)
    finally:
        await pool.close()


@pytest.mark.parametrize("host", [*LOOPBACK, *METADATA])
async def test_a_private_host_is_never_reached(trap: Trap, host: str) -> None:
    """Whatever the spelling, the caller hears that it could not be reached, and nobody is connected to."""
    message = await refused(f"https://{host}:{trap.port}/v1")
    assert message == "The provider `fake` could not be reached."


@pytest.mark.parametrize("scheme", ["https", "http"])
@pytest.mark.parametrize("host", [*LOOPBACK, *METADATA])
async def test_the_pool_alone_never_reaches_it(trap: Trap, scheme: str, host: str) -> None:
    """The address that is connected to is what is judged, even if nobody had looked at the URL, and even for http."""
    await fails_in_the_pool(f"{scheme}://{host}:{trap.port}/v1")


@pytest.mark.parametrize("form", TRICKS)
async def test_a_url_that_can_be_read_in_two_ways_is_never_reached(trap: Trap, form: str) -> None:
    """User info, backslashes, tabs, brackets and the like are refused, and lead nowhere if they were not."""
    url = form.replace("{port}", str(trap.port))
    with contextlib.suppress(ValueError):  # no account can be made with some of them
        assert await refused(url) == "The provider `fake` could not be reached."
    await fails_in_the_pool(url)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "0x7f.1", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "①②⑦.⓪.⓪.①"]
)
async def test_the_trap_works(trap: Trap, host: str) -> None:
    """The same forms do connect for a host that is trusted: it is the guard that stops them."""
    url = f"http://{host}:{trap.port}/v1"
    pool = HttpPool()
    timeout = aiohttp.ClientTimeout(total=0.5)
    with pytest.raises((aiohttp.ClientError, TimeoutError)):
        await pool.session(is_trusted=True).get(url, timeout=timeout)
    await pool.close()
    assert trap.count() == 1


@pytest.mark.parametrize("address", PRIVATE)
async def test_a_public_name_with_a_private_address_is_never_reached(trap: Trap, address: str) -> None:
    """What a name resolves to counts, not the name."""
    pool = HttpPool(resolver=lambda: FakeResolver({"api.example": [[address]]}))
    assert await refused(f"https://api.example:{trap.port}/v1", pool) == "The provider `fake` could not be reached."


async def test_every_address_of_a_mixed_answer_is_judged(trap: Trap) -> None:
    """Private addresses among others are skipped, in whatever order they come and however the others fail."""
    answer = [*PRIVATE, "localhost", "2130706433", "nonsense", "", "127.0.0.1"]
    pool = HttpPool(resolver=lambda: FakeResolver({"api.example": [answer]}))
    assert await refused(f"https://api.example:{trap.port}/v1", pool) == "The provider `fake` could not be reached."


async def test_a_name_that_changes_its_address_is_never_reached(trap: Trap) -> None:
    """Rebinding: whatever the name resolved to before, the address of this very connection is judged."""
    resolver = FakeResolver({"api.example": [["192.0.0.1"], ["127.0.0.1"], ["::1"], ["127.0.0.1", "::1"]]})
    pool = HttpPool(resolver=lambda: resolver)
    session = pool.session(is_trusted=False)
    assert isinstance(session.connector, aiohttp.TCPConnector)
    for _ in range(6):
        session.connector.clear_dns_cache()
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.get(f"https://api.example:{trap.port}/v1")
    await pool.close()
    assert len(resolver.looked_up) == 6


async def test_proxies_of_the_environment_are_not_used(trap: Trap, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy would connect where the guard does not look."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{trap.port}")
    pool = HttpPool(resolver=lambda: FakeResolver({"api.example": [["10.0.0.1"]]}))
    assert await refused("https://api.example/v1", pool) == "The provider `fake` could not be reached."


async def test_the_log_says_why_and_no_secret(trap: Trap, caplog: pytest.LogCaptureFixture) -> None:
    """The operator reads the host, the address and what is wrong with it; the caller reads none of them."""
    pool = HttpPool(resolver=lambda: FakeResolver({"api.example": [["10.1.2.3", "fd00::1"]]}))
    with caplog.at_level(logging.WARNING):
        message = await refused(f"https://api.example:{trap.port}/v1", pool)
    assert "api.example" in caplog.text
    assert "its address 10.1.2.3 is private" in caplog.text
    assert KEY not in caplog.text
    for hidden in ("10.1.2.3", "fd00", "private", "api.example", str(trap.port)):
        assert hidden not in message


async def test_the_log_of_a_refused_url_keeps_its_password(caplog: pytest.LogCaptureFixture) -> None:
    """Credentials in a base URL are a mistake, which the log names without them."""
    http = ProviderHttp({}, LIMITS, ProviderErrors("fake", None), pool=HttpPool(), is_trusted=False)
    with caplog.at_level(logging.WARNING), pytest.raises(ProviderUnavailable):
        await http.get("https://someone:canary-password@api.example/v1")
    assert "holds credentials" in caplog.text
    assert "canary-password" not in caplog.text


async def test_a_provider_made_past_the_accounts_is_guarded(trap: Trap) -> None:
    """Every request of a provider that is not trusted is checked, whoever made the provider."""
    pool = HttpPool()
    for base_url in (f"http://127.0.0.1:{trap.port}", f"https://127.0.0.1:{trap.port}", "https://localhost"):
        provider = OpenAICompatible(name="fake", base_url=base_url, pool=pool, is_trusted=False, limits=LIMITS)
        prepared = provider.prepare_chat(REQUEST, model="m", stream=True, max_output_tokens=None)
        with pytest.raises(ProviderUnavailable):
            async for _ in provider.stream_chat(prepared):
                pass
    await pool.close()


async def test_denied_hosts_leave_nothing_behind(trap: Trap) -> None:
    """A thousand refusals leave no task and no open socket."""
    pool = HttpPool(resolver=lambda: FakeResolver({"api.example": [["127.0.0.1", "::1"]]}))
    session = pool.session(is_trusted=False)

    async def ask() -> Any:
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.get(f"https://api.example:{trap.port}/")

    await asyncio.gather(*(ask() for _ in range(1_000)))
    await pool.close()
    assert len(asyncio.all_tasks()) == 1
