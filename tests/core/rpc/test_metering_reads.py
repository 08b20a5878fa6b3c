"""The reading half of MeteringService, plain `def`: the days that are listed, and the explanation of a count."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from fakes.fake_key_usage_store import NOW, FakeKeyUsageStore
from fakes.key_ring import FakeKeyRing
from fakes.step_writer import FakeDailyStore, FakeLeaseStore, FakeStepWriter
from fakes.sync_rpc import FakeCaller, SyncRpc
from fakes.usage_stores import make_views_service
from hypothesis import given
from hypothesis import strategies as st

from quillgate.v1 import metering_service_pb2 as pb
from quillgate_core.counting import MAX_TOKENS, Usage, counted_messages
from quillgate_core.errors import InvalidRequest, ScopeMissing, WorkspaceNotFound
from quillgate_core.key import KeyLimits
from quillgate_core.key_usage import KeyCount, KeyFigures, KeyUsages
from quillgate_core.limits import LimitState
from quillgate_core.metering import Metering
from quillgate_core.principal import INFERENCE, KEYS_MANAGE, PLATFORM_ADMIN, USAGE_READ, Principal
from quillgate_core.rpc.metering_service import MAX_DAYS, MeteringService

SERVICE = pb.DESCRIPTOR.services_by_name["MeteringService"]
TODAY = date(2030, 1, 1)
"""The day of FakeDailyStore."""


def _principal(*scopes: str) -> Principal:
    return Principal("key_1", 1, "ws_1", frozenset(scopes))


class _Reads:
    """The servicer on a store that remembers what it was asked."""

    def __init__(
        self,
        *scopes: str,
        remaining_messages: int | None = 7,
        monthly_remaining_messages: int | None = None,
        principal: Principal | None = None,
        ring: FakeKeyRing | None = None,
    ) -> None:
        self.store = FakeDailyStore(remaining_messages, monthly_remaining_messages=monthly_remaining_messages)
        metering = Metering(
            writer=FakeStepWriter(AssertionError()),
            daily_store=self.store,
            lease_store=FakeLeaseStore(),
            instance_id="core_1",
        )
        self.key_usage = FakeKeyUsageStore()
        key_usages = KeyUsages((ring or FakeKeyRing()).keys, self.store, self.key_usage)
        caller = FakeCaller(principal or _principal(*(scopes or (USAGE_READ,))))
        self.servicer = MeteringService(metering, key_usages, make_views_service(), caller)
        self.call = SyncRpc(SERVICE, self.servicer)

    def asked_for(self, **fields: str) -> tuple[str, date | None, date | None]:
        """Which workspace and days a request reads."""
        self.call("ListDailyMessageCount", pb.ListDailyMessageCountRequest(**fields))
        return self.store.asked[-1]


def test_days_come_with_what_is_left() -> None:
    """The answer holds each day's sums, the allowance, what is left of it today, and when that resets."""
    response = _Reads().call("ListDailyMessageCount", pb.ListDailyMessageCountRequest())
    (day,) = response.days
    expected = pb.DailyMessageCount(
        workspace_id="ws_1", day="2030-01-01", message_count=1, input_tokens=10, output_tokens=5, request_count=1
    )
    assert day == expected
    assert (response.daily_message_allowance, response.remaining_messages) == (100, 7)
    assert response.reset_time.ToDatetime(tzinfo=UTC) == datetime(2030, 1, 2, tzinfo=UTC)


@pytest.mark.parametrize("remaining_messages", [None, 0])
def test_no_limit_is_not_zero(remaining_messages: int | None) -> None:
    """What is left is absent without a limit, and present when it is nothing."""
    response = _Reads(remaining_messages=remaining_messages).call(
        "ListDailyMessageCount", pb.ListDailyMessageCountRequest()
    )
    assert response.HasField("remaining_messages") == (remaining_messages is not None)


@pytest.mark.parametrize("remaining_messages", [None, 0, 3])
def test_the_month_comes_with_the_days(remaining_messages: int | None) -> None:
    """The monthly allowance and what is left of it are there exactly where the month is limited."""
    response = _Reads(monthly_remaining_messages=remaining_messages).call(
        "ListDailyMessageCount", pb.ListDailyMessageCountRequest()
    )
    is_limited = remaining_messages is not None
    assert response.HasField("monthly_message_allowance") == is_limited
    assert response.HasField("monthly_remaining_messages") == is_limited
    assert (response.monthly_message_allowance, response.monthly_remaining_messages) == (
        (1_000, remaining_messages) if is_limited else (0, 0)
    )


def test_a_keys_usage_is_told_in_full() -> None:
    """Every field of the answer: the key, every kind of limit with its state, today's and the month's sums."""
    ring, end = FakeKeyRing(), datetime(2031, 1, 1, tzinfo=UTC)
    limits = KeyLimits(1, 2, 3, 4, 5)
    key, secret = ring.add(INFERENCE, models=("m",), expire_time=end, limits=limits)
    reads = _Reads(monthly_remaining_messages=0, principal=ring.keys.authenticate(secret), ring=ring)
    rates = (
        LimitState("key_requests_per_minute", 3, 3, NOW),
        LimitState("key_tokens_per_minute", 4, 4, NOW),
        LimitState("key_concurrent_requests", 5, 0, None),
    )
    reads.key_usage.figures = KeyFigures(NOW, KeyCount(1, 2, 3, 4, 5, 6, 7), KeyCount(8), rates)
    response = reads.call("GetKeyUsage", pb.GetKeyUsageRequest())
    assert (response.key_id, response.name, response.workspace_id) == (key.key_id, "a key", "ws_1")
    assert (list(response.scopes), list(response.allowed_models)) == ([INFERENCE], ["m"])
    assert response.expire_time.ToDatetime(tzinfo=UTC) == end
    assert response.today == pb.KeyMessageCount(
        message_count=1,
        held_messages=2,
        input_tokens=3,
        cached_tokens=4,
        output_tokens=5,
        request_count=6,
        byok_message_count=7,
    )
    assert response.month == pb.KeyMessageCount(message_count=8)
    assert [(state.limit, state.value, state.remaining) for state in response.limits] == [
        (pb.LIMIT_DAILY_MESSAGE_ALLOWANCE, 100, 7),
        (pb.LIMIT_MONTHLY_MESSAGE_ALLOWANCE, 1_000, 0),
        (pb.LIMIT_KEY_DAILY_MESSAGES, 1, 0),
        (pb.LIMIT_KEY_MONTHLY_MESSAGES, 2, 0),
        (pb.LIMIT_KEY_REQUESTS_PER_MINUTE, 3, 3),
        (pb.LIMIT_KEY_TOKENS_PER_MINUTE, 4, 4),
        (pb.LIMIT_KEY_CONCURRENT_REQUESTS, 5, 0),
    ]
    assert [state.HasField("reset_time") for state in response.limits] == [True] * 6 + [False]
    assert response.limits[0].reset_time.ToDatetime(tzinfo=UTC) == datetime(2030, 1, 2, tzinfo=UTC)
    assert (response.HasField("remaining_messages"), response.remaining_messages) == (True, 0)


def test_a_key_without_limits_in_messages_has_no_remainder() -> None:
    """Absent is not zero, for what is left as for the expiry; another key's usage takes its scope."""
    ring = FakeKeyRing()
    (key, _), (_, secret) = ring.add(), ring.add(KEYS_MANAGE, limits=KeyLimits(requests_per_minute=1))
    manager = ring.keys.authenticate(secret)
    reads = _Reads(principal=manager, ring=ring)
    reads.store.unlimited = True
    response = reads.call("GetKeyUsage", pb.GetKeyUsageRequest(key_id=key.key_id))
    assert (response.key_id, list(response.limits)) == (key.key_id, [])
    assert (response.HasField("remaining_messages"), response.HasField("expire_time")) == (False, False)
    weak = _Reads(principal=replace(manager, scopes=frozenset({INFERENCE, USAGE_READ})), ring=ring)
    with pytest.raises(ScopeMissing) as caught:
        weak.servicer.GetKeyUsage(pb.GetKeyUsageRequest(key_id=key.key_id), None)
    assert caught.value.metadata == {"scope": KEYS_MANAGE}


def test_days_have_the_documented_defaults() -> None:
    """The last day is the database's today, the first one 30 days before the last."""
    reads = _Reads()
    assert reads.asked_for() == ("ws_1", TODAY - timedelta(30), TODAY)
    assert reads.asked_for(end_day="2029-03-31") == ("ws_1", date(2029, 3, 1), date(2029, 3, 31))
    assert reads.asked_for(start_day="2029-12-31") == ("ws_1", date(2029, 12, 31), TODAY)
    assert reads.asked_for(end_day="0001-01-05") == ("ws_1", date.min, date(1, 1, 5))


def test_range_is_bounded() -> None:
    """A range of the greatest length is read; a longer one, and one that runs backwards, are refused."""
    reads = _Reads()
    first = TODAY - timedelta(MAX_DAYS)
    assert reads.asked_for(start_day=first.isoformat())[1] == first
    for start_day in (first - timedelta(1), TODAY + timedelta(1)):
        with pytest.raises(InvalidRequest) as caught:
            reads.servicer.ListDailyMessageCount(pb.ListDailyMessageCountRequest(start_day=start_day.isoformat()), None)
        assert caught.value.metadata == {"param": "start_day", "code": "invalid_value"}


@pytest.mark.parametrize("param", ["start_day", "end_day"])
@pytest.mark.parametrize(
    "text",
    ["today", "2030-1-1", "20300101", "2030-02-30", "2030-W01-1", "2030-01-01T00:00", " 2030-01-01", "２０３０-01-01"],
)
def test_day_has_one_form(param: str, text: str) -> None:
    """A day is YYYY-MM-DD in ASCII digits and exists; anything else is refused by name."""
    with pytest.raises(InvalidRequest) as caught:
        _Reads().servicer.ListDailyMessageCount(pb.ListDailyMessageCountRequest(**{param: text}), None)
    assert caught.value.metadata == {"param": param, "code": "invalid_value"}


def test_listing_needs_its_scope() -> None:
    """A key that may only infer does not see what its workspace used."""
    with pytest.raises(ScopeMissing) as caught:
        _Reads(INFERENCE).servicer.ListDailyMessageCount(pb.ListDailyMessageCountRequest(), None)
    assert caught.value.metadata == {"scope": USAGE_READ}


def test_other_workspaces_are_for_the_platform_admin() -> None:
    """Another workspace's days are unknown to a tenant, and open to the platform's admin."""
    request = pb.ListDailyMessageCountRequest(workspace_id="ws_2")
    with pytest.raises(WorkspaceNotFound) as caught:
        _Reads().servicer.ListDailyMessageCount(request, None)
    assert caught.value.metadata == {"workspace_id": "ws_2"}
    assert _Reads(PLATFORM_ADMIN).asked_for(workspace_id="ws_2")[0] == "ws_2"


@given(
    prompt_tokens=st.integers(0, MAX_TOKENS),
    completion_tokens=st.integers(0, MAX_TOKENS),
    data=st.data(),
)
def test_quote_explains_the_count(prompt_tokens: int, completion_tokens: int, data: Any) -> None:
    """The steps of a quote add up to the very count that metering charges."""
    cached_tokens = data.draw(st.integers(0, prompt_tokens))
    usage = pb.TokenUsage(prompt_tokens=prompt_tokens, cached_tokens=cached_tokens, completion_tokens=completion_tokens)
    quote = _Reads(INFERENCE).servicer.QuoteMessages(pb.QuoteMessagesRequest(usage=usage), None)
    assert quote.cached_discount == cached_tokens // 2
    assert quote.effective_input == prompt_tokens - quote.cached_discount
    assert quote.counted_messages == counted_messages(Usage(prompt_tokens, cached_tokens, completion_tokens))
    assert quote.tokens_per_message == 16_000


def test_quote_goes_through_grpc() -> None:
    """Prompt 10 and completion 5 count 1, which any key may ask."""
    usage = pb.TokenUsage(prompt_tokens=10, completion_tokens=5)
    response = _Reads(INFERENCE).call("QuoteMessages", pb.QuoteMessagesRequest(usage=usage))
    assert response == pb.QuoteMessagesResponse(
        cached_discount=0, effective_input=10, counted_messages=1, tokens_per_message=16_000
    )


@pytest.mark.parametrize(
    ("usage", "param", "code"),
    [
        (None, "usage", "missing_required_parameter"),
        (pb.TokenUsage(prompt_tokens=-1), "usage.prompt_tokens", "invalid_value"),
        (pb.TokenUsage(prompt_tokens=MAX_TOKENS + 1), "usage.prompt_tokens", "invalid_value"),
        (pb.TokenUsage(completion_tokens=-1), "usage.completion_tokens", "invalid_value"),
        (pb.TokenUsage(completion_tokens=2**63 - 1), "usage.completion_tokens", "invalid_value"),
        (pb.TokenUsage(prompt_tokens=1, cached_tokens=-1), "usage.cached_tokens", "invalid_value"),
        (pb.TokenUsage(prompt_tokens=1, cached_tokens=2), "usage.cached_tokens", "invalid_value"),
    ],
)
def test_usage_must_be_one(usage: pb.TokenUsage | None, param: str, code: str) -> None:
    """A missing usage is not zero, and one out of its ranges is refused by the member's path."""
    with pytest.raises(InvalidRequest) as caught:
        _Reads().servicer.QuoteMessages(pb.QuoteMessagesRequest(usage=usage), None)
    assert caught.value.metadata == {"param": param, "code": code}
