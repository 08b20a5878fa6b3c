"""The list of denied addresses: every one in it, every form that carries one, and nothing that is public."""

import ipaddress
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quillgate_core.catalogue_basis import read_catalogue
from quillgate_core.providers.address_guard import denial, url_denial

DENIED: Final = [
    *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24"),
    *("192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24"),
    *("224.0.0.0/4", "240.0.0.0/4", "168.63.129.16/32", "192.31.196.0/24", "192.52.193.0/24", "192.175.48.0/24"),
    *("::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/32"),
    *("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20", "5f00::/16", "fc00::/7", "fe80::/10", "fec0::/10"),
    *("ff00::/8", "2620:4f:8000::/48", "4000::/3", "6000::/3", "8000::/1"),
]
METADATA: Final = [
    *("169.254.169.254", "169.254.170.2", "169.254.0.23", "100.100.100.200", "192.0.0.192", "168.63.129.16"),
    *("fd00:ec2::254", "fd20:ce::254", "fd00:42::42"),
]
PUBLIC: Final = [
    *("1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255"),
    *("128.0.0.0", "168.63.129.15", "168.63.129.17", "169.253.255.255", "172.15.255.255", "172.32.0.0", "192.0.1.0"),
    *("192.167.255.255", "192.169.0.0", "198.17.255.255", "198.20.0.0", "223.255.255.255", "2606:4700::1111"),
    *("2001:200::1", "2001:4860:4860::8888", "2003::1", "2a00:1450::1", "2001:db7:ffff::1", "2001:db9::1"),
]
V4_NETWORKS: Final = [ipaddress.IPv4Network(network) for network in DENIED if ":" not in network]
NETWORKS: Final = [ipaddress.ip_network(network) for network in DENIED]


def _within(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> st.SearchStrategy[str]:
    first, last = int(network[0]), int(network[-1])
    kind = type(network[0])
    return st.integers(first, last).map(lambda number: str(kind(number)))


any_v4 = st.integers(0, 2**32 - 1)
denied_v4 = st.sampled_from(V4_NETWORKS).flatmap(_within).map(lambda text: int(ipaddress.IPv4Address(text)))


@pytest.mark.parametrize("network", DENIED)
def test_the_ends_of_every_denied_network_are_denied(network: str) -> None:
    """No network is cut short by one."""
    ends = ipaddress.ip_network(network)
    assert denial(str(ends[0]))
    assert denial(str(ends[-1]))


@given(st.sampled_from(NETWORKS).flatmap(_within))
def test_whatever_is_in_a_denied_network_is_denied(address: str) -> None:
    """Any address of any denied network has a reason."""
    assert denial(address)


@pytest.mark.parametrize("address", METADATA)
def test_the_metadata_of_clouds_is_denied(address: str) -> None:
    """The addresses where clouds hand out credentials."""
    assert denial(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_allowed(address: str) -> None:
    """The neighbours of denied networks are as public as any."""
    assert denial(address) is None


@given(any_v4)
def test_an_ipv4_address_is_allowed_unless_it_is_denied(number: int) -> None:
    """Nothing but the networks listed here is denied, and all of them are."""
    ip = ipaddress.IPv4Address(number)
    assert (denial(str(ip)) is not None) == any(ip in network for network in V4_NETWORKS)


@given(st.integers(0, 2**128 - 1) | st.integers(0x2 << 124, (0x4 << 124) - 1))
def test_an_ipv6_address_is_allowed_unless_it_is_denied(number: int) -> None:
    """Global unicast is allowed but for what is listed here and ISATAP's interface identifiers."""
    ip = ipaddress.IPv6Address(number)
    is_isatap = (number >> 32) & 0xFCFF_FFFF == 0x5EFE
    is_public = ip in ipaddress.ip_network("2000::/3") and not is_isatap
    assert (denial(str(ip)) is None) == (is_public and not any(ip in network for network in NETWORKS))


@given(denied_v4 | any_v4, st.integers(0, 2**32 - 1), st.integers(0x2000, 0x3FFE))
def test_ipv4_in_ipv6_is_denied_whatever_it_carries(v4: int, filling: int, prefix: int) -> None:
    """A mapped, compatible, translated, tunnelled or wrapped address reaches the one in it, which is not looked at."""
    forms = [
        v4,  # ::a.b.c.d
        0xFFFF << 32 | v4,  # ::ffff:a.b.c.d
        0xFFFF << 48 | v4,  # ::ffff:0:a.b.c.d
        0x64FF9B << 96 | v4,  # NAT64
        0x64FF9B_0001 << 80 | filling << 48 | v4,  # NAT64 of the local network
        0x2002 << 112 | v4 << 80 | filling,  # 6to4
        0x2001_0000 << 96 | filling << 64 | v4,  # Teredo, server
        0x2001_0000 << 96 | filling << 64 | (v4 ^ 0xFFFF_FFFF),  # Teredo, client
        *(prefix << 112 | filling << 72 | flags << 56 | 0x5EFE << 32 | v4 for flags in (0, 1, 2, 3)),  # ISATAP
    ]
    assert [str(ipaddress.IPv6Address(form)) for form in forms if not denial(str(ipaddress.IPv6Address(form)))] == []


@pytest.mark.parametrize(
    "text",
    ["", "example.com", "1.2.3", "16843009", "0x1.1.1.1", "01.1.1.1", "1.1.1.1.", "2606:4700::1111%eth0", "1.1.1.1%lo"],
)
def test_what_is_no_plain_address_is_denied(text: str) -> None:
    """Only the canonical forms are read, and none that depends on a network interface."""
    assert denial(text)


@given(st.text() | st.from_regex(r"[0-9a-fA-F:.%x]{1,40}", fullmatch=True))
def test_any_text_is_judged(text: str) -> None:
    """Whatever a resolver might say, the answer is a reason or a certainly public address."""
    if denial(text) is None:
        assert ipaddress.ip_address(text).is_global


@pytest.mark.parametrize(
    "url",
    [
        *(
            "https://api.provider.example/v1",
            "https://api.provider.example:8443/v1",
            "https://API.provider.example./v1",
        ),
        *("https://bücher.example/v1", "https://xn--bcher-kva.example", "https://under_score.example/v1"),
        *("https://1.1.1.1/v1", "https://[2606:4700::1111]:444/v1", "https://1.2.3.4.example/", "https://0x.example"),
        "https://api.example/v1/models?page=@2",
    ],
)
def test_https_urls_with_a_public_form_are_allowed(url: str) -> None:
    """Names with a dot, IDNA, a last dot, any port, and public addresses."""
    assert url_denial(url) is None


@pytest.mark.parametrize(
    "url",
    [
        *("https://api.example/v1#x", "https://api.example#", "https://api.example/v1?x=1#", "https://api.example#@x"),
        *("https://api.example/\tv1", " https://api.example", "https://api.example\n", "https://api.example/a b"),
        *("https://api.example\\@evil.example", "https://[::1", "https://api.example:99999", "", "api.example"),
        *("https://@api.example", "https://:@api.example", "https://a@b@api.example", "https://a%40b@api.example"),
        *("https://api.example/\x7f", "https://a\x00b.example", "https://api.example:0:1"),
    ],
)
def test_urls_that_could_be_read_otherwise_are_refused(url: str) -> None:
    """A URL has no fragment, nor characters that some programs drop or turn round."""
    assert url_denial(url)


@pytest.mark.parametrize(
    "url",
    [
        *("http://api.example/v1", "ftp://api.example", "//api.example/v1", "https:api.example", "https:///v1"),
        *("https://user@api.example", "https://user:secret@api.example", "https://:x@a.example"),
        *("https://localhost", "https://localhost.", "https://metadata", "https://a..example", "https://.example"),
        *("https://api.example/v1#fragment", f"https://{'a' * 64}.example", f"https://{'a.' * 127}example"),
        *("https://%61pi.example", "https://a%00.example", "https://127.0.0.1", "https://127.1", "https://0x7f.1"),
        *("https://2130706433", "https://0X7F000001", "https://1.1", "https://api.0x7f", "https://[fe80::1%25eth0]"),
    ],
)
def test_other_urls_are_refused_before_a_look_up(url: str) -> None:
    """No http, no credentials, no local name, no encoded name and no number that is not plainly a public address."""
    assert url_denial(url)


def test_the_bundled_providers_have_public_urls() -> None:
    """Nobody but this list names them, so that they pass the same guard as what workspaces bring."""
    urls = [entry.base_url for entry in read_catalogue(None).providers.values() if entry.base_url]
    assert [(url, url_denial(url)) for url in urls if url_denial(url)] == []
    assert urls
