"""`quillgate workspaces`: what is sent to core, and what people and scripts get to see."""

import pytest
from fakes.fake_admin_core import OWN_WORKSPACE, FakeAdminCore

from quillgate.v1.workspace_service_pb2 import AT_ALLOWANCE_ALLOW

from .conftest import Cli


def test_create_with_and_without_allowance(cli: Cli, core: FakeAdminCore) -> None:
    """An allowance of 0 is sent as 0; none given, and none wanted, is sent as absent."""
    for options in (["--allowance", "0"], [], ["--no-allowance-limit"]):
        assert cli("workspaces", "create", "--name", "Team", *options).code == 0
    given = [request.HasField("daily_message_allowance") for request in core.requests]
    assert given == [True, False, False]


def test_create_as_json(cli: Cli) -> None:
    """`--json` prints the workspace under proto's names."""
    assert cli("workspaces", "create", "--name", "Zoë", "--allowance", "1500", "--json").json == {
        "workspace": {
            "workspace_id": "ws_00000000000000000001",
            "name": "Zoë",
            "daily_message_allowance": 1500,
            "store_responses": True,
            "monthly_message_allowance": None,
            "at_allowance": "AT_ALLOWANCE_REFUSE",
            "disable_time": None,
            "create_time": "2001-09-09T01:46:40Z",
            "update_time": "2001-09-09T01:46:40Z",
        }
    }


def test_list_follows_every_page(cli: Cli, core: FakeAdminCore) -> None:
    """All workspaces are listed, in order, with their allowances, though the server gives two at a time."""
    for number in range(4):
        core.add_workspace(f"Team {number}", daily_message_allowance=1000 * number)
    outcome = cli("workspaces", "list")
    assert outcome.column("WORKSPACE") == list(core.workspaces)
    allowances = [line.split()[-6] for line in outcome.out.splitlines()[2:]]
    assert allowances == ["limit", "0", "1,000", "2,000", "3,000"]
    assert len(cli("workspaces", "list", "--json").json["workspaces"]) == 5


def test_show_defaults_to_ones_own(cli: Cli, core: FakeAdminCore) -> None:
    """Without an id the request names none, which is the key's own workspace."""
    other = core.add_workspace("Other").workspace_id
    assert cli("workspaces", "show", "--json").json["workspace"]["workspace_id"] == OWN_WORKSPACE
    assert cli("workspaces", "show", other, "--json").json["workspace"]["workspace_id"] == other
    assert [request.workspace_id for request in core.requests] == ["", other]


def test_update_changes_only_what_was_given(cli: Cli, core: FakeAdminCore) -> None:
    """The mask names the given options' fields; `--no-allowance-limit` clears the allowance."""
    workspace_id = core.add_workspace("Team", daily_message_allowance=5).workspace_id
    renamed = cli("workspaces", "update", workspace_id, "--name", "Crew", "--json").json["workspace"]
    assert (renamed["name"], renamed["daily_message_allowance"]) == ("Crew", 5)
    unlimited = cli("workspaces", "update", workspace_id, "--no-allowance-limit", "--json").json["workspace"]
    assert (unlimited["name"], unlimited["daily_message_allowance"]) == ("Crew", None)
    assert "7 messages a day" in cli("workspaces", "update", workspace_id, "--allowance", "7").out


def test_storage_is_turned_on_and_off(cli: Cli, core: FakeAdminCore) -> None:
    """The option is sent as given, only it is named in the mask, and without it nothing is said about storage."""
    assert cli("workspaces", "create", "--name", "T").code == 0
    assert cli("workspaces", "create", "--name", "T", "--no-store-responses").code == 0
    assert [(r.HasField("store_responses"), r.store_responses) for r in core.requests] == [
        (False, False),
        (True, False),
    ]
    workspace_id = list(core.workspaces)[-1]
    assert "kept" in cli("workspaces", "update", workspace_id, "--store-responses").out
    assert "not kept" in cli("workspaces", "update", workspace_id, "--no-store-responses").out
    assert [list(request.update_mask.paths) for request in core.requests[2:]] == [["store_responses"]] * 2


def test_create_sends_the_month_and_what_happens_beyond(cli: Cli, core: FakeAdminCore) -> None:
    """A monthly allowance of 0 is sent as 0; what was not given is not sent."""
    options = ["--monthly-allowance", "0", "--at-allowance", "allow"]
    assert cli("workspaces", "create", "--name", "T", *options).code == 0
    assert cli("workspaces", "create", "--name", "T").code == 0
    given, plain = core.requests
    assert (given.HasField("monthly_message_allowance"), given.at_allowance) == (True, AT_ALLOWANCE_ALLOW)
    assert [field.name for field, _ in plain.ListFields()] == ["name"]


def test_update_masks_the_month_and_what_happens_beyond(cli: Cli, core: FakeAdminCore) -> None:
    """Each option names its own field, and what it means is shown."""
    workspace_id = core.add_workspace("Team").workspace_id
    limited = cli("workspaces", "update", workspace_id, "--monthly-allowance", "9000", "--at-allowance", "allow").out
    assert "9,000 messages a month" in limited
    assert "allowed, counted as overage" in limited
    unlimited = cli("workspaces", "update", workspace_id, "--no-monthly-limit", "--at-allowance", "refuse").out
    assert "messages a month" not in unlimited
    assert "allowed" not in unlimited
    assert [list(request.update_mask.paths) for request in core.requests] == [
        ["monthly_message_allowance", "at_allowance"]
    ] * 2


def test_disabling_is_a_word_of_its_own(cli: Cli, core: FakeAdminCore) -> None:
    """`disable` and `enable` change nothing else; the list shows which workspaces are disabled, and since when."""
    workspace_id = core.add_workspace("Team", monthly_message_allowance=70).workspace_id
    assert "2004-11-09T11:33:20Z" in cli("workspaces", "disable", workspace_id).out
    listed = cli("workspaces", "list")
    assert listed.column("DISABLED") == ["no", "2004-11-09T11:33:20Z"]
    assert [line.split()[-4] for line in listed.out.splitlines()[2:]] == ["limit", "70"]
    assert cli("workspaces", "enable", workspace_id, "--json").json["workspace"]["disable_time"] is None
    changes = [request for request in core.requests if hasattr(request, "update_mask")]
    assert [(r.workspace_id, r.disabled, list(r.update_mask.paths)) for r in changes] == [
        (workspace_id, True, ["disabled"]),
        (workspace_id, False, ["disabled"]),
    ]


WRONG = [
    (["disable"], "WORKSPACE_ID"),
    (["enable", ""], "an id is empty"),
    (["create", "--name", "T", "--at-allowance", "ask"], "--at-allowance"),
    (["create", "--name", "T", "--monthly-allowance", "-1"], "--monthly-allowance"),
    (["update", "--monthly-allowance", "1", "--no-monthly-limit"], "exclude each other"),
    (["create"], "--name"),
    (["create", "--name", "T", "--allowance", "-1"], "--allowance"),
    (["create", "--name", "T", "--allowance", "9223372036854775808"], "--allowance"),
    (["create", "--name", "T", "--allowance", "1.5"], "--allowance"),
    (["update", "ws_1"], "nothing to change"),
    (["update", "", "--name", "T"], "an id is empty"),
    (["update", "--allowance", "1", "--no-allowance-limit"], "exclude each other"),
]


@pytest.mark.parametrize(("arguments", "told"), WRONG)
def test_wrong_usage_is_told_before_anything_is_sent(
    cli: Cli, core: FakeAdminCore, arguments: list[str], told: str
) -> None:
    """Wrong usage ends with code 2 and one line, without a call."""
    outcome = cli("workspaces", *arguments)
    assert (outcome.code, outcome.out, core.requests) == (2, "", [])
    assert told in outcome.err
    assert outcome.err.count("\n") == 1
