"""`quillgate count`: the formula, step by step."""

from fakes.fake_admin_core import FakeAdminCore

from .conftest import Cli


def test_count_explains_every_step(cli: Cli) -> None:
    """People see how tokens become messages; JSON has each step's number."""
    arguments = ["count", "--prompt", "40001", "--cached", "11", "--completion", "5"]
    assert cli(*arguments).out.splitlines() == [
        "Cached discount  11 cached / 2, rounded down = 5",
        "Effective input  40,001 prompt - 5 = 39,996",
        "Tokens           39,996 + 5 completion = 40,001",
        "Messages         40,001 / 16,000, rounded up, at least 1 = 3",
    ]
    assert cli(*arguments, "--json").json == {
        "cached_discount": 5,
        "effective_input": 39_996,
        "counted_messages": 3,
        "tokens_per_message": 16_000,
    }


def test_count_of_a_small_request(cli: Cli) -> None:
    """Prompt 10 and completion 5 count 1 message."""
    out = cli("count", "--prompt", "10", "--cached", "0", "--completion", "5").out
    assert out.splitlines()[-1].endswith("15 / 16,000, rounded up, at least 1 = 1")


def test_count_refuses_negative_tokens(cli: Cli, core: FakeAdminCore) -> None:
    """A negative count is wrong usage, and nothing is sent."""
    assert cli("count", "--prompt", "-1").code == 2
    assert core.requests == []
