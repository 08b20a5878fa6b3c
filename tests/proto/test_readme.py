"""The wheel of `quillgate-proto`, installed alone in an empty environment, runs exactly the code of proto/README.md."""

import asyncio
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from email import message_from_string
from pathlib import Path

import pytest
from service import RunningService

PROTO = Path(__file__).parents[2] / "proto"
HERE = Path(__file__).parent
README = (PROTO / "README.md").read_text(encoding="utf-8")

PROGRAMS = re.findall(r"^```python\n(.*?)^```\n.*?^```text\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
"""Each program of the page with what it must print."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the checkout as it is."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=PROTO, check=True, stdout=subprocess.PIPE, timeout=120)
    (built,) = folder.glob("*.whl")
    return built


def run(*command: str | Path, **variables: str) -> str:
    """Run a command without any of our own environment and return what it prints."""
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", ""), "PYTHONUTF8": "1", **variables}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def pip(python: Path, *arguments: str | Path) -> str:
    """Run pip in an environment, with the settings of this machine."""
    settings = {name: value for name, value in os.environ.items() if name.startswith("PIP_") or "SSL" in name}
    return run(python, "-m", "pip", *arguments, **settings)


@pytest.fixture(scope="module", params=["oldest_runtime", "newest_runtime"])
def consumer(request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with nothing but the wheel and a promised runtime."""
    if request.param == "oldest_runtime" and sys.version_info >= (3, 13):
        pytest.skip("grpcio 1.62 has no wheels for Python 3.13")
    folder = tmp_path_factory.mktemp(request.param)
    venv.create(folder, with_pip=True)
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    lock = HERE / f"{request.param}.lock"
    pip(python, "install", "--quiet", "--require-hashes", "--only-binary=:all:", "--requirement", lock)
    pip(python, "install", "--quiet", "--no-deps", "--no-index", wheel)
    return python


def test_the_page_has_programs() -> None:
    """Every Python block of the page is run: each is followed by the text that it prints."""
    assert len(PROGRAMS) == README.count("```python") == 6


def test_the_wheel_depends_on_three_packages(wheel: Path) -> None:
    """Internal teams get grpcio, protobuf and msgspec, and nothing else."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = message_from_string(archive.read(name).decode())
    requirements = metadata.get_all("Requires-Dist") or []
    assert sorted(re.split(r"[<>=!~; ]", line)[0] for line in requirements) == ["grpcio", "msgspec", "protobuf"]


def test_the_wheel_holds_the_typed_stubs_and_the_codec(wheel: Path) -> None:
    """Everything below proto/gen and the codec is there, with py.typed, and nothing else beside the metadata."""
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    sources = [
        path.relative_to(base).as_posix()
        for base, package in ((PROTO / "gen", "quillgate"), (PROTO, "quillgate_codec"))
        for path in (base / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]
    assert names == set(sources)
    assert {"quillgate/py.typed", "quillgate/v1/key_service_pb2_grpc.pyi", "quillgate_codec/py.typed"} <= names


def test_an_empty_environment_is_complete_with_the_wheel(consumer: Path) -> None:
    """All requirements are met, every module imports with warnings as errors, and nothing of the server is there."""
    assert pip(consumer, "check") == "No broken requirements found.\n"
    modules = sorted(path.stem for path in (PROTO / "gen/quillgate/v1").glob("*.py"))
    imports = ", ".join(f"quillgate.v1.{module}" for module in modules)
    code = (
        f"import quillgate, quillgate_codec, {imports}, sys; print([m for m in sys.modules if m == 'quillgate_core'])"
    )
    assert run(consumer, "-I", "-W", "error", "-c", code) == "[]\n"


@pytest.mark.parametrize(("program", "printed"), PROGRAMS, ids=["ask", "stream", "errors", "metering", "chat", "json"])
async def test_a_program_of_the_page_prints_what_it_says(
    program: str, printed: str, consumer: Path, running_service: RunningService, tmp_path: Path
) -> None:
    """The block, unchanged, against the real service, from the installed wheel."""
    path = tmp_path / "program.py"
    path.write_text(program, encoding="utf-8")
    variables = {"QUILLGATE_CORE_ADDRESS": running_service.grpc_address, "QUILLGATE_KEY": running_service.developer_key}
    assert await asyncio.to_thread(run, consumer, "-I", "-W", "error", path, **variables) == printed


def test_the_programs_type_check_as_a_consumer_would(consumer: Path, tmp_path: Path) -> None:
    """With the wheel's own .pyi files and the usual stub packages, `mypy --strict` finds nothing."""
    for number, (program, _) in enumerate(PROGRAMS):
        (tmp_path / f"program_{number}.py").write_text(program, encoding="utf-8")
    site_packages = Path(run(consumer, "-I", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    for package in ("grpc-stubs", "google-stubs"):
        shutil.copytree(Path(sysconfig.get_path("purelib")) / package, site_packages / package)
    programs = sorted(tmp_path.glob("program_*.py"))
    options = ["--strict", "--no-incremental", "--config-file=", f"--python-executable={consumer}"]
    checked = run(sys.executable, "-m", "mypy", *options, *programs)
    assert checked == f"Success: no issues found in {len(programs)} source files\n"
