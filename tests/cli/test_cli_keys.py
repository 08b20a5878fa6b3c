"""`quillgate keys`: what is sent to core, and what people and scripts get to see."""

import re
from datetime import UTC, datetime, timedelta

import pytest
from fakes.fake_admin_core import ADMIN_SECRET, NEW_SECRET, OWN_WORKSPACE, FakeAdminCore

from quillgate.v1.key_service_pb2 import KeyLimits

from .conftest import Cli


def test_create_sends_every_option(cli: Cli, core: FakeAdminCore) -> None:
    """Each option of `keys create` reaches the field that it stands for."""
    options = ["--name", "build", "--workspace", "ws_7", "--scope", "inference", "--scope", "keys.manage"]
    options += ["--model", "a/b", "--model", "c", "--expires", "2031-02-03T04:05:06+01:00"]
    assert cli("keys", "create", *options).code == 0
    (request,) = core.requests
    assert (request.name, request.workspace_id) == ("build", "ws_7")
    assert list(request.scopes) == ["inference", "keys.manage"]
    assert list(request.allowed_models) == ["a/b", "c"]
    assert request.expire_time.ToJsonString() == "2031-02-03T03:05:06Z"


def test_create_leaves_what_was_not_given_to_core(cli: Cli, core: FakeAdminCore) -> None:
    """Without options the request holds the name alone, so that core's defaults apply."""
    cli("keys", "create", "--name", "k")
    assert [field.name for field, _ in core.requests[0].ListFields()] == ["name"]


def test_create_shows_the_secret_once(cli: Cli) -> None:
    """People see the secret exactly once, first, with a warning, and nowhere on standard error."""
    outcome = cli("keys", "create", "--name", "k")
    assert outcome.out.startswith(NEW_SECRET + "\n")
    assert outcome.out.count(NEW_SECRET) == 1
    assert "not shown again" in outcome.out
    assert outcome.err == ""


def test_secret_only_prints_nothing_else(cli: Cli, core: FakeAdminCore) -> None:
    """`--secret-only` gives scripts the bare secret, for new keys and for rotated ones."""
    key_id = core.add_key("k").key_id
    assert cli("keys", "create", "--name", "k", "--secret-only").out == NEW_SECRET + "\n"
    assert cli("keys", "rotate", key_id, "--secret-only").out == NEW_SECRET + "\n"


def test_create_as_json(cli: Cli) -> None:
    """`--json` prints CreateKeyResponse: the key under proto's names, times in RFC 3339, and the secret."""
    document = cli("keys", "create", "--name", "k", "--expires", "2031-01-01T00:00:00Z", "--json").json
    assert document == {
        "key": {
            "key_id": "key_00000000000000000001",
            "workspace_id": OWN_WORKSPACE,
            "name": "k",
            "last4": "NNNN",
            "scopes": ["inference", "usage.read"],
            "allowed_models": [],
            "create_time": "2001-09-09T01:46:40Z",
            "expire_time": "2031-01-01T00:00:00Z",
            "last_used_time": None,
            "revoke_time": None,
            "limits": {
                "daily_messages": None,
                "monthly_messages": None,
                "requests_per_minute": None,
                "tokens_per_minute": None,
                "concurrent_requests": None,
            },
        },
        "secret": NEW_SECRET,
    }


def test_expiry_may_be_a_length_of_time(cli: Cli, core: FakeAdminCore) -> None:
    """`--expires 30d` is thirty days from now."""
    cli("keys", "create", "--name", "k", "--expires", "30d")
    expire_time = core.requests[0].expire_time.ToDatetime(tzinfo=UTC)
    assert abs(expire_time - datetime.now(UTC) - timedelta(days=30)) < timedelta(minutes=5)


def test_list_follows_every_page(cli: Cli, core: FakeAdminCore) -> None:
    """All keys are listed, in order, though the server gives two at a time."""
    keys = [core.add_key(f"key-{number}").key_id for number in range(5)]
    outcome = cli("keys", "list")
    assert (outcome.code, outcome.column("KEY")) == (0, keys)
    assert [request.page_token for request in core.requests] == ["", "2", "4"]


def test_list_as_json_is_one_document(cli: Cli, core: FakeAdminCore) -> None:
    """The pages become one JSON document without page tokens."""
    names = [core.add_key(f"key-{number}").name for number in range(3)]
    document = cli("keys", "list", "--json").json
    assert list(document) == ["keys"]
    assert [key["name"] for key in document["keys"]] == names


def test_an_endless_list_is_given_up(cli: Cli, core: FakeAdminCore) -> None:
    """A server whose page token never changes gets an error instead of an endless client."""
    core.add_key("k")
    core.endless = True
    outcome = cli("keys", "list")
    assert (outcome.code, outcome.out, outcome.err) == (1, "", "quillgate: the server's list has no end\n")
    assert len(core.requests) == 2


def test_revoked_keys_are_listed_on_demand(cli: Cli, core: FakeAdminCore) -> None:
    """A revoked key is in the list only with `--include-revoked`, which shows when it was."""
    key_id = core.add_key("k").key_id
    assert cli("keys", "revoke", key_id, "--json").json["key"]["revoke_time"] == "2004-11-09T11:33:20Z"
    assert key_id not in cli("keys", "list").out
    assert cli("keys", "list", "--include-revoked").column("REVOKED") == ["2004-11-09T11:33:20Z"]


def test_show_names_every_fact(cli: Cli, core: FakeAdminCore) -> None:
    """`keys show` tells each fact on a line of its own."""
    key = core.add_key("build server", allowed_models=["a/b"])
    lines = cli("keys", "show", key.key_id).out.splitlines()
    facts = dict(re.split(r"  +", line, maxsplit=1) for line in lines)
    assert facts["Key"] == key.key_id
    assert facts["Name"] == "build server"
    assert facts["Limits"] == "none"
    assert (facts["Secret"], facts["Models"], facts["Expires"], facts["Revoked"]) == ("…NNNN", "a/b", "never", "no")


UPDATES = [
    (["--name", "n"], ["name"]),
    (["--scope", "inference"], ["scopes"]),
    (["--model", "m"], ["allowed_models"]),
    (["--any-model"], ["allowed_models"]),
    (["--expires", "1d"], ["expire_time"]),
    (["--never-expires"], ["expire_time"]),
    (["--name", "", "--never-expires"], ["name", "expire_time"]),
]


@pytest.mark.parametrize(("options", "paths"), UPDATES)
def test_update_masks_what_was_given(cli: Cli, core: FakeAdminCore, options: list[str], paths: list[str]) -> None:
    """The update mask names the given options' fields and no other."""
    key_id = core.add_key("k").key_id
    assert cli("keys", "update", key_id, *options).code == 0
    assert list(core.requests[0].update_mask.paths) == paths


def test_update_can_take_limits_away(cli: Cli, core: FakeAdminCore) -> None:
    """`--any-model --never-expires` clears both limits of a key that had them."""
    key = core.add_key("k", allowed_models=["m"])
    key.expire_time.seconds = 2_000_000_000
    changed = cli("keys", "update", key.key_id, "--any-model", "--never-expires", "--json").json["key"]
    assert (changed["allowed_models"], changed["expire_time"], changed["name"]) == ([], None, "k")


LIMITS = {
    "--daily-messages": "daily_messages",
    "--monthly-messages": "monthly_messages",
    "--requests-per-minute": "requests_per_minute",
    "--tokens-per-minute": "tokens_per_minute",
    "--concurrent-requests": "concurrent_requests",
}


def test_create_sends_every_limit(cli: Cli, core: FakeAdminCore) -> None:
    """Each option reaches its field, 0 included, and the answer tells all of them in words."""
    values = {name: number for number, name in enumerate(LIMITS.values())}
    options = [word for option, name in LIMITS.items() for word in (option, str(values[name]))]
    shown = cli("keys", "create", "--name", "k", *options)
    assert {field.name: value for field, value in core.requests[0].limits.ListFields()} == values
    told = "0 messages a day, 1 messages a month, 2 requests a minute, 3 tokens a minute, 4 requests at once"
    assert told in shown.out


@pytest.mark.parametrize(("option", "name"), LIMITS.items())
def test_update_masks_each_limit_alone(cli: Cli, core: FakeAdminCore, option: str, name: str) -> None:
    """A limit that is given is set, one that is taken away is cleared, and the others stay."""
    others = {other: 5 for other in LIMITS.values() if other != name}
    key = core.add_key("k", limits=KeyLimits(**others))
    given = cli("keys", "update", key.key_id, option, "7", "--json").json["key"]["limits"]
    taken = cli("keys", "update", key.key_id, "--no-limit", option.removeprefix("--"), "--json").json["key"]["limits"]
    assert (given, taken) == ({**others, name: 7}, {**others, name: None})
    assert [list(request.update_mask.paths) for request in core.requests] == [[f"limits.{name}"]] * 2


def test_limits_are_changed_together(cli: Cli, core: FakeAdminCore) -> None:
    """One call gives some limits, takes others away and renames."""
    key = core.add_key("k", limits=KeyLimits(daily_messages=1, requests_per_minute=1))
    options = ["--no-limit", "daily-messages", "--no-limit", "requests-per-minute", "--tokens-per-minute", "9"]
    assert "9 tokens a minute" in cli("keys", "update", key.key_id, *options, "--name", "n").out
    assert list(core.requests[0].update_mask.paths) == [
        "name",
        "limits.daily_messages",
        "limits.requests_per_minute",
        "limits.tokens_per_minute",
    ]


OVERLAPS: list[tuple[list[str], int | None]] = [
    ([], None),
    (["--overlap", "24h"], 86_400),
    (["--overlap", "1d12h"], 129_600),
    (["--overlap", "0"], 0),
]


@pytest.mark.parametrize(("options", "overlap_s"), OVERLAPS)
def test_rotate_sends_the_overlap(cli: Cli, core: FakeAdminCore, options: list[str], overlap_s: int | None) -> None:
    """An overlap of zero is not the same as none given."""
    key_id = core.add_key("k").key_id
    assert cli("keys", "rotate", key_id, *options, "--json").json["secret"] == NEW_SECRET
    request = core.requests[0]
    assert (request.overlap.seconds if request.HasField("overlap") else None) == overlap_s


WRONG = [
    (["create"], "--name"),
    (["create", "--name", "k", "--json", "--secret-only"], "exclude each other"),
    (["create", "--name", "k", "--workspace", ""], "an id is empty"),
    (["create", "--name", "k", "--expires", "soon"], "'soon' is no time"),
    (["create", "--name", "k", "--expires", "2031-01-01T00:00:00"], "is no time"),
    (["create", "--name", "k", "--expires", "2031-13-01T00:00:00Z"], "no moment"),
    (["create", "--name", "k", "--expires", "999999999w"], "too long a time"),
    (["update", "key_1"], "nothing to change"),
    (["update", "key_1", "--model", "m", "--any-model"], "exclude each other"),
    (["update", "key_1", "--expires", "1d", "--never-expires"], "exclude each other"),
    (["update", "key_1", "--daily-messages", "1", "--no-limit", "daily-messages"], "exclude each other"),
    (["update", "key_1", "--no-limit", "everything"], "--no-limit"),
    (["create", "--name", "k", "--daily-messages", "-1"], "--daily-messages"),
    (["create", "--name", "k", "--requests-per-minute", "1.5"], "--requests-per-minute"),
    (["rotate", "key_1", "--overlap", "1y"], "no length of time"),
    (["rotate", "key_1", "--overlap", "-1h"], "no length of time"),
    (["show", ""], "an id is empty"),
    (["show"], "KEY_ID"),
    (["list", "--key", ADMIN_SECRET], "--key"),
    (["list", f"--key={ADMIN_SECRET}"], "--key"),
]


@pytest.mark.parametrize(("arguments", "told"), WRONG)
def test_wrong_usage_is_told_before_anything_is_sent(
    cli: Cli, core: FakeAdminCore, arguments: list[str], told: str
) -> None:
    """Wrong usage ends with code 2 and one line, without a call."""
    outcome = cli("keys", *arguments)
    assert (outcome.code, outcome.out, core.requests) == (2, "", [])
    assert told in outcome.err
    assert outcome.err.count("\n") == 1
    assert ADMIN_SECRET not in outcome.err


def test_a_secret_in_the_place_of_an_id_is_neither_sent_nor_repeated(cli: Cli, core: FakeAdminCore) -> None:
    """Somebody who pastes a secret as an id is warned, and the secret goes nowhere else."""
    outcome = cli("keys", "revoke", NEW_SECRET)
    assert (outcome.code, core.requests) == (2, [])
    assert "that is a secret" in outcome.err
    assert NEW_SECRET not in outcome.err
