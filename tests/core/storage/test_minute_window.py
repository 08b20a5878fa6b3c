"""A key's last minute: the sums that are kept beside it are those of the numbers that still count."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from quillgate_core.storage.minute_window import WINDOW_MS, MinuteWindow

NOW = datetime(2030, 1, 1, 12, 0, 0, 250_000, tzinfo=UTC)
NOW_MS = int(NOW.timestamp() * 1000)
MINUTE = timedelta(minutes=1)

Entry = tuple[int, int, int]


def _flat(entries: list[Entry]) -> list[int]:
    return [number for entry in entries for number in entry]


def _ago(ms: int, *, requests: int = 1, tokens: int = 10) -> Entry:
    return NOW_MS - ms, requests, tokens


STEPS = st.lists(
    st.one_of(
        st.integers(0, 50).map(lambda tokens: ("enter", 0, tokens)),
        st.tuples(st.just("correct"), st.integers(0, 70), st.integers(-60, 60)),
    ),
    max_size=12,
)


@given(
    seconds=st.dictionaries(st.integers(0, 70), st.tuples(st.integers(0, 999), st.integers(1, 5), st.integers(0, 50))),
    steps=STEPS,
)
def test_sums_are_those_of_what_counts(
    seconds: dict[int, tuple[int, int, int]], steps: list[tuple[str, int, int]]
) -> None:
    """After any requests and corrections; a correction beyond nothing is cut, one of a second that is over is lost."""
    last_second_ms = NOW_MS // 1000 * 1000
    entries = [
        (last_second_ms - 1000 * second - 1000 + ms, requests, tokens)
        for second, (ms, requests, tokens) in sorted(seconds.items(), reverse=True)
    ]
    window = MinuteWindow(_flat(entries), NOW)
    alive = {ms // 1000: [ms, requests, tokens] for ms, requests, tokens in entries if ms > NOW_MS - WINDOW_MS}
    for kind, ago_s, tokens in steps:
        second = NOW_MS // 1000 - ago_s
        if kind == "enter":
            window.enter(tokens=tokens)
            _, requests, before = alive.get(NOW_MS // 1000, [0, 0, 0])
            alive[NOW_MS // 1000] = [NOW_MS, requests + 1, before + tokens]
        else:
            window.correct(second, tokens=tokens)
            if second in alive:
                alive[second][2] = max(0, alive[second][2] + tokens)
    expected = [number for second in sorted(alive) for number in alive[second]]
    assert window.numbers == expected
    assert window.used("requests") == sum(expected[1::3])
    assert window.used("tokens") == sum(expected[2::3])
    assert window.empty_time("tokens") == window.free_time("tokens", window.used("tokens"))
    assert window.empty_time("requests") == window.free_time("requests", window.used("requests"))


def test_a_second_counts_for_a_minute() -> None:
    """To the millisecond, from the last request in it."""
    window = MinuteWindow(_flat([_ago(WINDOW_MS), _ago(WINDOW_MS - 1)]), NOW)
    assert window.used("requests") == 1
    assert window.empty_time("requests") == NOW.replace(microsecond=251_000)


def test_when_what_is_used_is_free_again() -> None:
    """The oldest go first; what never was so much is free in a minute, and nothing at once."""
    window = MinuteWindow(_flat([_ago(40_000, requests=2), _ago(10_000, tokens=0)]), NOW)
    assert window.free_time("requests", 2) == NOW + timedelta(seconds=20)
    assert window.free_time("requests", 3) == NOW + timedelta(seconds=50)
    assert window.free_time("requests", 4) == NOW + MINUTE
    assert window.free_time("requests", 0) == NOW
    assert window.empty_time("tokens") == NOW + timedelta(seconds=20)
    assert MinuteWindow([], NOW).empty_time("tokens") == NOW


def test_what_was_read_is_left_alone() -> None:
    """The numbers that a transaction has read are not changed under it."""
    numbers = _flat([_ago(100)])
    window = MinuteWindow(numbers, NOW)
    window.enter(tokens=5)
    window.correct(NOW_MS // 1000, tokens=-1)
    assert numbers == _flat([_ago(100)])
