"""The principal: what a key may do, decided from its own values alone."""

import pytest

from quillgate_core.errors import ModelNotAllowed, ScopeMissing, WorkspaceNotFound
from quillgate_core.principal import INFERENCE, PLATFORM_ADMIN, SCOPES, Principal


def _principal(*scopes: str, models: tuple[str, ...] = ()) -> Principal:
    return Principal("key_1", 1, "ws_1", frozenset(scopes), models)


@pytest.mark.parametrize("scope", SCOPES)
def test_platform_admin_implies_every_scope(scope: str) -> None:
    """The strongest scope stands for all."""
    _principal(PLATFORM_ADMIN).require(scope)


@pytest.mark.parametrize("scope", [scope for scope in SCOPES if scope != INFERENCE])
def test_other_scopes_imply_nothing(scope: str) -> None:
    """A scope that the key lacks is named in the error."""
    _principal(INFERENCE).require(INFERENCE)
    with pytest.raises(ScopeMissing) as caught:
        _principal(INFERENCE).require(scope)
    assert caught.value.metadata == {"scope": scope}


def test_allow_list_is_exact() -> None:
    """Without a list every model may be used; with one, only those on it, even by an admin."""
    _principal(INFERENCE).require_model("anything")
    listed = _principal(PLATFORM_ADMIN, models=("a/b",))
    listed.require_model("a/b")
    for model in ("a", "a/b ", "A/B", "*", ""):
        with pytest.raises(ModelNotAllowed) as caught:
            listed.require_model(model)
        assert caught.value.metadata == {"model": model}


def test_workspace_is_ones_own_unless_platform_admin() -> None:
    """Asking for another workspace is answered as if there were none, except to the platform admin."""
    ordinary, admin = _principal(*SCOPES[:-1]), _principal(PLATFORM_ADMIN)
    assert ordinary.workspace("") == ordinary.workspace("ws_1") == "ws_1"
    with pytest.raises(WorkspaceNotFound) as caught:
        ordinary.workspace("ws_2")
    assert caught.value.metadata == {"workspace_id": "ws_2"}
    assert admin.workspace("ws_2") == "ws_2"
    assert admin.workspace("") == "ws_1"


@pytest.mark.parametrize("requested", ["ws_\0", "ws 2", "ws_2\n", "x" * 65, "\ud800"])
def test_impossible_workspace_is_unknown_to_the_admin_too(requested: str) -> None:
    """Text that no id can be never reaches the database."""
    with pytest.raises(WorkspaceNotFound):
        _principal(PLATFORM_ADMIN).workspace(requested)
