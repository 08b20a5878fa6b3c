"""`quillgate models enable`, `disable`, `alias` and `unalias`."""

import pytest
from fakes.fake_admin_core import FakeAdminCore

from quillgate.v1.catalogue_service_pb2 import CatalogueModel
from quillgate.v1.model_service_pb2 import Model

from .conftest import Cli


@pytest.fixture(autouse=True)
def core_with_catalogue(core: FakeAdminCore) -> FakeAdminCore:
    """A core that knows one model."""
    core.catalogue["x/m"] = CatalogueModel(model=Model(id="x/m"), enabled=True, served=True)
    return core


def test_a_model_is_switched(cli: Cli, core: FakeAdminCore) -> None:
    """`disable` and `enable` say what becomes of the model, for people and as JSON."""
    assert "Served   no" in cli("models", "disable", "x/m").out
    assert cli("models", "enable", "x/m", "--json").json["model"]["served"] is True
    assert [request.enabled for request in core.requests] == [False, True]


def test_a_model_is_named(cli: Cli, core: FakeAdminCore) -> None:
    """`alias NAME ID` and `unalias NAME` send both names as they were given."""
    assert "fast" in cli("models", "alias", "fast", "x/m").out
    assert cli("models", "unalias", "fast").out == "fast is no alias any more\n"
    assert cli("models", "unalias", "fast", "--json").json == {"alias": "fast", "deleted": True}
    assert (core.requests[0].alias, core.requests[0].model_id) == ("fast", "x/m")
    assert core.requests[1].alias == "fast"


@pytest.mark.parametrize("arguments", [["enable", "x/none"], ["disable", "x/none"], ["alias", "fast", "x/none"]])
def test_an_unknown_model_is_not_found(cli: Cli, arguments: list[str]) -> None:
    """What nobody knows can neither be switched nor named: code 4."""
    outcome = cli("models", *arguments)
    assert (outcome.code, outcome.out) == (4, "")
    assert "x/none" in outcome.err
