"""The errors, the contract's list of reasons and the gRPC codes: the same set, with exactly the same metadata."""

import ast
import re
from pathlib import Path

import grpc
import pytest

import quillgate_core
from quillgate.v1 import error_reason_pb2
from quillgate_core import errors
from quillgate_core.rpc.status import DOMAIN, MAX_MESSAGE_CHARACTERS, grpc_code, status_text, trailing_metadata

ROOT = Path(quillgate_core.__file__).parents[2]
PROTO = ROOT / "proto" / "quillgate" / "v1" / "error_reason.proto"

#: One of each, as it is raised.
SAMPLES: list[errors.QuillgateError] = [
    errors.InvalidRequest("m", param="a", code="b"),
    errors.KeyInvalid(),
    errors.ScopeMissing("inference"),
    errors.ModelNotAllowed("m"),
    errors.WorkspaceDisabled("w"),
    errors.ModelNotFound("m"),
    errors.KeyNotFound("k"),
    errors.WorkspaceNotFound("w"),
    errors.ReservationNotFound("r"),
    errors.ResponseNotFound("r"),
    errors.ProviderCredentialNotFound("p"),
    errors.DuplicateRequest("r"),
    errors.ReservationClosed("r", "settled"),
    errors.DuplicateInProgress("r"),
    errors.AlreadyCompleted("r"),
    errors.IdempotencyMismatch("r"),
    errors.KeyRevoked("k"),
    errors.AliasTaken("a"),
    errors.LedgerDayKept("m", day="d", cause="recent"),
    errors.AllowanceExhausted("m", workspace_id="w", limit="l", allowance=1, remaining_messages=0, reset_time="t"),
    errors.RateLimited("m", limit="l", value=1, remaining=0, reset_time="t", retry_after_s=1),
    errors.ProviderRejected("m", provider="p", code="c", param="a"),
    errors.ProviderUnavailable("m", provider="p"),
    errors.ProviderTimeout("m", provider="p"),
    errors.ProviderCredentialRejected("p"),
    errors.Overloaded("m"),
    errors.QuillgateError("m", request_id="r"),
]

#: Classes that take their metadata from whoever raises them.
FREE = (
    "InvalidRequest",
    "AllowanceExhausted",
    "RateLimited",
    "ProviderRejected",
    "ProviderUnavailable",
    "ProviderTimeout",
)
#: Metadata that the status fills in, empty, where the raiser has nothing to say.
OPTIONAL = {"INVALID_REQUEST": {"param", "code"}, "PROVIDER_REJECTED": {"provider", "code", "param"}}


def documented() -> dict[str, tuple[str, set[str]]]:
    """Reads the contract: each reason with its gRPC code and its metadata keys."""
    found: dict[str, tuple[str, set[str]]] = {}
    comment = ""
    for line in PROTO.read_text().splitlines():
        line = line.strip()
        if line.startswith("//"):
            comment += " " + line.removeprefix("//").strip()
            continue
        value = re.fullmatch(r"ERROR_REASON_(\w+) = \d+;", line)
        if value and value[1] != "UNSPECIFIED":
            text, _, metadata = comment.strip().partition("Metadata: ")
            # Words in brackets explain a key; they may be quoted too.
            keys = set(re.findall(r"`(\w+)`", re.sub(r"\([^)]*\)", "", metadata)))
            assert metadata, value[1]
            found[value[1]] = (text.partition(":")[0], keys)
        comment = ""
    return found


def _leaves(kind: type[errors.QuillgateError]) -> set[type[errors.QuillgateError]]:
    below = {leaf for child in kind.__subclasses__() for leaf in _leaves(child)}
    return below or {kind}


def _info(error: errors.QuillgateError) -> tuple[error_reason_pb2.ErrorStatus, error_reason_pb2.ErrorInfo]:
    ((key, data),) = trailing_metadata(error)
    assert key == "grpc-status-details-bin"
    status = error_reason_pb2.ErrorStatus.FromString(data)
    (detail,) = status.details
    assert detail.type_url == "type.googleapis.com/google.rpc.ErrorInfo"
    return status, error_reason_pb2.ErrorInfo.FromString(detail.value)


def test_samples_are_complete() -> None:
    """Every class that can be raised is tested here, and every class between has no reason of its own."""
    leaves = _leaves(errors.QuillgateError)
    assert {type(sample) for sample in SAMPLES} == leaves | {errors.QuillgateError}
    assert all("reason" in vars(leaf) for leaf in leaves)


def test_reasons_are_those_of_the_contract() -> None:
    """Nothing is raised that the contract does not list, and nothing is listed that is never raised."""
    names = {name.removeprefix("ERROR_REASON_") for name in error_reason_pb2.ErrorReason.keys()} - {"UNSPECIFIED"}  # noqa: SIM118
    reasons = [sample.reason for sample in SAMPLES]
    assert sorted(reasons) == sorted(names)
    assert set(documented()) == names


@pytest.mark.parametrize("error", SAMPLES, ids=lambda error: type(error).__name__)
def test_status_is_what_the_contract_says(error: errors.QuillgateError) -> None:
    """Code, reason and metadata keys are exactly those in the comment of the reason."""
    code, keys = documented()[error.reason]
    assert grpc_code(error) == grpc.StatusCode[code]
    status, info = _info(error)
    assert (status.code, status.message) == (grpc.StatusCode[code].value[0], error.message)
    assert (info.reason, info.domain) == (error.reason, DOMAIN)
    assert set(info.metadata) == keys
    assert dict(info.metadata) == error.metadata


@pytest.mark.parametrize("kind", [errors.InvalidRequest, errors.ProviderRejected])
def test_missing_metadata_is_sent_empty(kind: type[errors.QuillgateError]) -> None:
    """Where the raiser has nothing to say, the documented keys are there all the same."""
    _, info = _info(kind("m"))
    assert dict(info.metadata) == dict.fromkeys(OPTIONAL[kind.reason], "")
    assert OPTIONAL[kind.reason] == documented()[kind.reason][1]


def test_raisers_give_what_the_contract_names() -> None:
    """Each place in the core that raises an error with free metadata gives all of its keys, and no other."""
    keys = {kind: documented()[getattr(errors, kind).reason][1] for kind in FREE}
    places = 0
    for path in (ROOT / "core" / "quillgate_core").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.func.id not in keys:
                continue
            places += 1
            given = {keyword.arg for keyword in node.keywords}
            reason = getattr(errors, node.func.id).reason
            assert given <= keys[node.func.id], (path.name, node.lineno)
            assert keys[node.func.id] - given <= OPTIONAL.get(reason, set()), (path.name, node.lineno)
    assert places > 20


def test_an_unknown_subclass_is_internal() -> None:
    """A class without a row is a fault of ours, not a success."""

    class FakeNewError(errors.QuillgateError):
        reason = "NEW"

    assert grpc_code(FakeNewError("m")) == grpc.StatusCode.INTERNAL


def test_long_texts_are_cut() -> None:
    """Whatever a caller sent, the status stays far below the 16 KiB that trailers may have, twice over for the text."""
    error = errors.InvalidRequest("𝄞" * 100_000, param="𝄞" * 100_000, code="𝄞" * 100_000)
    ((_, data),) = trailing_metadata(error)
    percent_encoded = 3 * len(status_text(error).encode())
    assert len(status_text(error)) == MAX_MESSAGE_CHARACTERS
    assert status_text(errors.InvalidRequest("m" * MAX_MESSAGE_CHARACTERS)) == "m" * MAX_MESSAGE_CHARACTERS
    assert len(data) * 4 / 3 + percent_encoded < 14_000
