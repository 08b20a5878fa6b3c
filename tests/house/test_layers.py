"""The layers hold: import-linter's contracts, and a planted offence that they must see."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LINTER = Path(sys.executable).parent / "lint-imports"


def test_imports_go_down_only() -> None:
    """Every contract of pyproject.toml is kept."""
    result = subprocess.run([LINTER, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout


def test_a_planted_offence_is_seen(tmp_path: Path) -> None:
    """The linter that guards the layers fails on a package that breaks one."""
    package = tmp_path / "planted"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "errors.py").write_text("import planted.app\n")
    (package / "app.py").write_text("")
    (tmp_path / ".importlinter").write_text(
        "[importlinter]\nroot_package = planted\n[importlinter:contract:layers]\nname = layers\ntype = layers\n"
        "layers =\n  planted.app\n  planted.errors\n"
    )
    environment = {"PYTHONPATH": str(tmp_path)}
    command = [LINTER, "--no-cache", "--config", ".importlinter"]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode != 0
    assert "BROKEN" in result.stdout
