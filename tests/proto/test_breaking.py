"""`proto/breaking.sh`, which `make check` runs, in small repositories of its own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUF = Path(sys.executable).parent / "buf"

CONTRACT = 'syntax = "proto3";\n\npackage quillgate.v1;\n\nmessage Key {\n  string key_id = 1;\n}\n'
BROKEN = CONTRACT.replace("key_id = 1", "key_id = 2")
GROWN = CONTRACT.replace("}\n", "  string name = 2;\n}\n")


class Repository:
    """A git repository with a contract in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "proto" / "quillgate" / "v1").mkdir(parents=True)
        shutil.copy(ROOT / "proto" / "breaking.sh", folder / "proto")
        self.git("init", "--quiet", "--initial-branch=main")

    def git(self, *arguments: str) -> None:
        """Run git, as nobody in particular."""
        identity = ["-c", "user.name=Test", "-c", "user.email=test@example.com", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *identity, *arguments], cwd=self.folder, check=True, timeout=30)

    def write(self, contract: str, *, buf_yaml: bool = True) -> None:
        """Put the contract into the working copy."""
        (self.folder / "proto/quillgate/v1/key.proto").write_text(contract)
        if buf_yaml:
            shutil.copy(ROOT / "buf.yaml", self.folder)

    def commit(self, contract: str, *, buf_yaml: bool = True) -> None:
        """Commit the contract."""
        self.write(contract, buf_yaml=buf_yaml)
        self.git("add", ".")
        self.git("commit", "--quiet", "--allow-empty", "--message", "Change the contract")

    def check(self, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run the script as `make check` does."""
        script = (folder or self.folder) / "proto" / "breaking.sh"
        return subprocess.run(
            ["sh", script, BUF], capture_output=True, text=True, timeout=60, check=False, env=os.environ
        )


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """A repository without a commit."""
    (tmp_path / "origin").mkdir()
    return Repository(tmp_path / "origin")


def test_a_grown_contract_passes(repository: Repository) -> None:
    """A new field breaks nobody."""
    repository.commit(CONTRACT)
    repository.commit(GROWN)
    done = repository.check()
    assert (done.returncode, "compatible with" in done.stdout) == (0, True)


def test_a_broken_contract_fails(repository: Repository) -> None:
    """A renumbered field is found against the commit before."""
    repository.commit(CONTRACT)
    repository.commit(BROKEN)
    done = repository.check()
    assert done.returncode != 0
    assert 'Previously present field "1"' in done.stdout + done.stderr


def test_a_change_that_is_not_committed_yet_is_compared_with_the_last_commit(repository: Repository) -> None:
    """A developer hears of a break before the commit, whatever the commit before did."""
    repository.commit(GROWN)
    repository.commit(CONTRACT)  # this commit itself breaks, which is not asked any more
    repository.write(BROKEN)
    assert 'Previously present field "1"' in repository.check().stdout
    repository.write(GROWN)
    assert repository.check().returncode == 0


def test_the_first_commit_is_skipped(repository: Repository) -> None:
    """Without a previous commit there is nothing to break."""
    repository.commit(CONTRACT)
    done = repository.check()
    assert (done.returncode, done.stdout) == (0, "buf breaking: skipped, there is no previous commit here\n")


def test_a_previous_commit_without_a_contract_is_skipped(repository: Repository) -> None:
    """The commit that brings buf.yaml has no predecessor to compare with."""
    repository.commit(CONTRACT, buf_yaml=False)
    repository.commit(BROKEN)
    done = repository.check()
    assert (done.returncode, done.stdout) == (0, "buf breaking: skipped, the previous commit has no buf.yaml\n")


def test_a_shallow_clone_is_skipped(repository: Repository, tmp_path: Path) -> None:
    """A clone of depth 1 holds no previous commit."""
    repository.commit(CONTRACT)
    repository.commit(BROKEN)
    clone = tmp_path / "clone"
    repository.git("clone", "--quiet", "--depth=1", repository.folder.as_uri(), str(clone))
    assert "skipped, there is no previous commit" in repository.check(clone).stdout


def test_a_folder_without_git_is_skipped(repository: Repository, tmp_path: Path) -> None:
    """An unpacked source archive is no checkout."""
    repository.write(CONTRACT)
    shutil.copytree(repository.folder, tmp_path / "plain", ignore=shutil.ignore_patterns(".git"))
    assert "skipped, this is no git checkout" in repository.check(tmp_path / "plain").stdout
