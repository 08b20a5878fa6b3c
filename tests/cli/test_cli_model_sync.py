"""`quillgate models sync`: shows first, and writes only what somebody wanted."""

import pytest
from fakes.fake_admin_core import FakeAdminCore

from quillgate.v1.catalogue_service_pb2 import MODEL_CHANGE_ADDED, MODEL_CHANGE_INCOMPLETE, ModelDifference

from .conftest import Cli

ADDED = ModelDifference(
    provider="p", upstream_model="new", model_id="x/new", change=MODEL_CHANGE_ADDED, detail="context_window 9"
)


@pytest.fixture(autouse=True)
def core_with_differences(core: FakeAdminCore) -> FakeAdminCore:
    """A core whose providers serve one model more."""
    core.differences.append(ADDED)
    return core


def test_nothing_is_written_where_nobody_can_be_asked(cli: Cli, core: FakeAdminCore) -> None:
    """Without a terminal and without --yes the differences are shown, and that is all."""
    outcome = cli("models", "sync")
    assert outcome.out.splitlines()[2].split() == ["added", "x/new", "p", "context_window", "9"]
    assert outcome.out.splitlines()[-1] == "nothing was written; --yes writes"
    assert [request.dry_run for request in core.requests] == [True]


def test_yes_shows_and_writes(cli: Cli, core: FakeAdminCore) -> None:
    """With --yes what is shown is written; --provider is passed on, and a failure is told beside."""
    core.failures.append("q: no list within 60 s")
    outcome = cli("models", "sync", "--yes", "--provider", "p", "--provider", "q")
    assert outcome.code == 0
    assert outcome.out.splitlines()[-1] == "written"
    assert outcome.err == "not read: q: no list within 60 s\n"
    assert [(list(request.providers), request.dry_run) for request in core.requests] == [
        (["p", "q"], True),
        (["p", "q"], False),
    ]


def test_json_is_one_call(cli: Cli, core: FakeAdminCore) -> None:
    """With --json one document is printed, and written only with --yes."""
    assert cli("models", "sync", "--json").json["written"] is False
    document = cli("models", "sync", "--json", "--yes").json
    assert document["written"] is True
    assert document["differences"][0]["model_id"] == "x/new"
    assert [request.dry_run for request in core.requests] == [True, False]


def test_what_is_only_told_needs_no_writing(cli: Cli, core: FakeAdminCore) -> None:
    """A model that cannot be added is shown, and there is nothing to write."""
    core.differences[0].change = MODEL_CHANGE_INCOMPLETE
    assert cli("models", "sync", "--yes").out.splitlines()[-1] == "nothing to write"
    assert len(core.requests) == 1
