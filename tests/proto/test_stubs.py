"""The committed stubs are what the contract generates, and they work on every runtime that proto/README.md promises."""

import filecmp
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROTO = ROOT / "proto"
HERE = Path(__file__).parent

old_tools = pytest.mark.skipif(
    sys.version_info >= (3, 13), reason="the pinned, old grpcio-tools and grpcio have no wheels for Python 3.13"
)


def locked_environment(lock: Path, folder: str) -> Path:
    """The interpreter of the environment of a lock file; made once, and shared with `make proto`."""
    command = [sys.executable, str(PROTO / "locked_environment.py"), str(lock), str(ROOT / folder)]
    return Path(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=300).stdout.strip())


def files_below(folder: Path) -> list[str]:
    """The names of all files below a folder, without Python's own caches."""
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    )


@old_tools
def test_the_committed_stubs_are_what_the_contract_generates(tmp_path: Path) -> None:
    """Regenerating with the locked tools gives proto/gen byte for byte; if not, run `make proto` and commit."""
    python = locked_environment(PROTO / "generate.lock", ".venv-proto")
    subprocess.run([python, PROTO / "generate.py", tmp_path], check=True, timeout=120)
    names = files_below(tmp_path)
    assert names == files_below(PROTO / "gen")
    assert len(names) > 20
    _, different, unreadable = filecmp.cmpfiles(tmp_path, PROTO / "gen", names, shallow=False)
    assert (different, unreadable) == ([], [])


def probe(python: Path | str, **variables: str) -> str:
    """What runtime_probe.py prints when an environment runs it with warnings as errors and only our package added."""
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join([str(PROTO / "gen"), str(PROTO)]),
        "PYTHONDONTWRITEBYTECODE": "1",
        **variables,
    }
    command = [python, "-W", "error", HERE / "runtime_probe.py", HERE / "corpus"]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=120, env=environment).stdout


@old_tools
def test_stubs_and_codec_work_on_the_oldest_promised_runtime() -> None:
    """The lower ends of the promised range: grpcio 1.62 and protobuf 4.25."""
    python = locked_environment(HERE / "oldest_runtime.lock", ".venv-proto-oldest")
    assert probe(python) == "grpcio 1.62.0 protobuf 4.25.3 upb\n"


def test_stubs_and_codec_work_on_the_current_runtime() -> None:
    """The runtime that the service itself uses, which is the newest."""
    printed = probe(sys.executable)
    assert printed.startswith("grpcio 1.")
    assert " protobuf 7." in printed  # above it pyproject.toml promises nothing


def test_stubs_and_codec_work_without_the_c_runtime() -> None:
    """Where no C wheel fits, protobuf falls back to pure Python, which differs in what it raises."""
    assert probe(sys.executable, PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION="python").endswith(" python\n")


def test_the_oldest_runtime_that_is_tested_is_the_one_that_is_promised() -> None:
    """The lower bounds in the wheel's metadata are exactly the versions of oldest_runtime.in."""
    promised = tomllib.loads((PROTO / "pyproject.toml").read_text())["project"]["dependencies"]
    lower_bounds = sorted(line.split(",")[0].replace(">=", "==") for line in promised)
    assert lower_bounds == (HERE / "oldest_runtime.in").read_text().split()
