"""`quillgate models explain`."""

from fakes.fake_admin_core import FakeAdminCore

from quillgate.v1.model_service_pb2 import ExplainModelRequest, RouteStep

from .conftest import Cli


def fill(core: FakeAdminCore) -> None:
    """Gives the core a route of two, one of which would not be tried."""
    core.route.model = "x/m"
    core.route.steps.extend(
        [
            RouteStep(
                provider="openrouter", upstream_model="x/m", eligible=True, reason="first in its order", byok=True,
                priority=1, weight=2, breaker="half_open", in_flight=3, max_in_flight=9, latency_ms=12.6,
                recent_requests=5, recent_failures=1,
            ),
            RouteStep(provider="p", upstream_model="m", reason="its breaker is open for 4 s more", breaker="open"),
        ]
    )  # fmt: skip


def test_route_is_shown_in_order(cli: Cli, core: FakeAdminCore) -> None:
    """Those that would be tried have their place; the others a dash; each says why."""
    fill(core)
    lines = cli("models", "explain", "x/m").out.splitlines()
    assert lines[2].split() == (
        ["1", "openrouter/x/m", "own", "1", "2", "half", "open", "3/9", "13", "1/5", "first", "in", "its", "order"]
    )
    assert lines[3].split()[:9] == ["-", "p/m", "house", "0", "0", "open", "0", "?", "0/0"]
    assert core.requests == [ExplainModelRequest(id="x/m")]


def test_alias_is_told(cli: Cli, core: FakeAdminCore) -> None:
    """Whoever asks for an alias hears what it stands for."""
    fill(core)
    assert cli("models", "explain", "fast").out.splitlines()[0] == "fast is an alias of x/m."


def test_what_the_request_would_say_is_sent(cli: Cli, core: FakeAdminCore) -> None:
    """Workspace, endpoint and conversation decide the route, so they can be given; JSON has proto's names."""
    fill(core)
    arguments = ("--workspace", "ws_7", "--endpoint", "responses", "--session", "s-1", "--json")
    document = cli("models", "explain", "x/m", *arguments).json
    assert core.requests == [ExplainModelRequest(id="x/m", workspace_id="ws_7", endpoint="responses", session="s-1")]
    assert (document["model"], document["steps"][1]["reason"]) == ("x/m", "its breaker is open for 4 s more")
