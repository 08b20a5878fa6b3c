"""Generates the stubs of `proto/quillgate` into the folder given as the only argument.

Run with the environment of `proto/generate.lock` (`make proto` does): the pinned, old grpcio-tools is what lets the
stubs load on every runtime that `proto/README.md` promises.
"""

import sys
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

PROTO = Path(__file__).resolve().parent


def generate(out: Path) -> int:
    """Writes `quillgate/v1/*_pb2{,_grpc}.py{,i}` and `py.typed` below `out`; returns protoc's exit code."""
    sources = sorted(str(path.relative_to(PROTO)) for path in (PROTO / "quillgate").rglob("*.proto"))
    scripts = Path(sys.executable).parent
    out.mkdir(parents=True, exist_ok=True)
    code = protoc.main(
        [
            "protoc",
            f"--proto_path={PROTO}",
            f"--proto_path={files('grpc_tools') / '_proto'}",
            f"--plugin=protoc-gen-mypy={scripts / 'protoc-gen-mypy'}",
            f"--plugin=protoc-gen-mypy_grpc={scripts / 'protoc-gen-mypy_grpc'}",
            f"--python_out={out}",
            f"--grpc_python_out={out}",
            f"--mypy_out=quiet:{out}",
            f"--mypy_grpc_out=quiet:{out}",
            *sources,
        ]
    )
    for stub in out.rglob("*_pb2_grpc.py"):
        if "class " not in stub.read_text():  # the file defines no service
            stub.unlink()
            stub.with_suffix(".pyi").unlink()
    (out / "quillgate" / "py.typed").touch()
    (out / "quillgate" / "v1" / "py.typed").touch()
    return int(code)


if __name__ == "__main__":
    raise SystemExit(generate(Path(sys.argv[1])))
