"""`quillgate workspaces`: what is sent to core, and what people and scripts get to see."""

import pytest
from fakes.fake_admin_core import OWN_WORKSPACE, FakeAdminCore

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
    assert [line.split()[-2] for line in outcome.out.splitlines()[2:]] == ["limit", "0", "1,000", "2,000", "3,000"]
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


WRONG = [
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
