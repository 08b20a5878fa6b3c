"""Look-ups of names: real ones, bad ones, and those whose name server never answers."""

import socket
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from quillgate_core.providers.name_resolver import MAX_ADDRESSES, NameResolver

Answer = tuple[Any, ...]


class FakeLookUp:
    """Answers look-ups with `answers`, unless `failure` is set; waits for `gate` first."""

    def __init__(self, *addresses: str) -> None:
        self.answers = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 443)) for address in addresses]
        self.failure: OSError | None = None
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, *_: object) -> Sequence[Answer]:
        """Look up."""
        self.gate.wait()
        if self.failure is not None:
            raise self.failure
        return self.answers


async def addresses_of(resolver: NameResolver, host: str = "api.example") -> list[str]:
    """The addresses that a host resolves to."""
    return [result["host"] for result in await resolver.resolve(host, 443)]


async def test_a_name_is_looked_up_as_the_system_does() -> None:
    """`localhost` is known everywhere."""
    resolver = NameResolver()
    found = await resolver.resolve("localhost", 8443)
    assert {result["host"] for result in found} <= {"127.0.0.1", "::1"}
    assert {result["port"] for result in found} == {8443}
    await resolver.close()


@pytest.mark.parametrize(
    "host", ["", "no-such-host.invalid", "a..example", f"{'a' * 64}.example", "a\x00b", "\udc80", "a b"]
)
async def test_a_name_that_cannot_be_found_is_an_error_of_the_system(host: str) -> None:
    """Whatever is wrong with it, the caller needs to catch one class."""
    resolver = NameResolver()
    with pytest.raises(OSError, match=r"."):
        await resolver.resolve(host, 443)
    await resolver.close()


async def test_a_name_server_that_never_answers_is_not_waited_for() -> None:
    """The look-up goes on in its thread; its caller hears soon that there is no answer."""
    look_up = FakeLookUp("1.1.1.1")
    look_up.gate.clear()
    resolver = NameResolver(look_up=look_up, look_up_s=0.05)
    with pytest.raises(OSError, match="not looked up in time"):
        await addresses_of(resolver)
    look_up.gate.set()
    await resolver.close()


async def test_a_host_stays_found_while_its_name_cannot_be_looked_up() -> None:
    """A name server that fails does not take away a provider that was found before; the others stay unknown."""
    look_up = FakeLookUp("1.1.1.1")
    resolver = NameResolver(look_up=look_up, look_up_s=0.05)
    assert await addresses_of(resolver) == ["1.1.1.1"]
    look_up.failure = socket.gaierror(socket.EAI_AGAIN, "try again")
    assert await addresses_of(resolver) == ["1.1.1.1"]
    with pytest.raises(OSError, match="try again"):
        await addresses_of(resolver, "new.example")
    look_up.gate.clear()
    assert await addresses_of(resolver) == ["1.1.1.1"]
    look_up.failure, look_up.answers = None, FakeLookUp("1.0.0.1").answers
    look_up.gate.set()
    assert await addresses_of(resolver) == ["1.0.0.1"]
    await resolver.close()


async def test_only_so_many_addresses_are_tried() -> None:
    """A name with thousands of addresses costs no more than one with a few."""
    resolver = NameResolver(look_up=FakeLookUp(*(f"1.1.1.{number}" for number in range(200))))
    assert len(await addresses_of(resolver)) == MAX_ADDRESSES
    await resolver.close()


async def test_no_address_is_an_error() -> None:
    """An empty answer is none."""
    resolver = NameResolver(look_up=FakeLookUp())
    with pytest.raises(OSError, match="no address"):
        await addresses_of(resolver)
    await resolver.close()
