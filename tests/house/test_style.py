"""The house's rules that a linter cannot see, and the rules' own tests."""

from pathlib import Path

import pytest
from house.house_style import (
    FORBIDDEN_NAMES,
    MAX_FILE_LINES,
    global_statements,
    long_functions,
    patches,
    python_files,
    undocumented_tests,
)

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("core", "facade", "proto")


def test_files_are_short() -> None:
    """No file of the product has more than 400 lines."""
    files = list(python_files(ROOT, *SOURCES))
    assert len(files) > 50
    assert [path.name for path in files if len(path.read_text().splitlines()) > MAX_FILE_LINES] == []


def test_functions_are_short() -> None:
    """No function, in product or tests, has more than 70 lines."""
    found = {path.name: long_functions(path.read_text()) for path in python_files(ROOT, *SOURCES, "tests", "bench")}
    assert {name: functions for name, functions in found.items() if functions} == {}


def test_no_global_state() -> None:
    """Nothing in the product uses a `global` statement."""
    assert [path.name for path in python_files(ROOT, *SOURCES) if global_statements(path.read_text())] == []


def test_fakes_are_injected() -> None:
    """No test patches anything: what is not ours is faked by hand and passed in."""
    assert [path.name for path in python_files(ROOT, "tests") if patches(path.read_text())] == []


def test_tests_say_what_they_show() -> None:
    """Every test has a docstring that states the behaviour."""
    found = {path.name: undocumented_tests(path.read_text()) for path in python_files(ROOT, "tests")}
    assert {name: tests for name, tests in found.items() if tests} == {}


def test_names_say_something() -> None:
    """No module is called utils, helpers, common, manager or base."""
    assert [path.name for path in python_files(ROOT, *SOURCES, "tests") if path.stem in FORBIDDEN_NAMES] == []


@pytest.mark.parametrize(
    ("check", "bad", "good"),
    [
        (long_functions, "def f():\n" + "    x = 1\n" * 70, "def f():\n" + "    x = 1\n" * 69),
        (global_statements, "def f():\n    global x\n", "def f():\n    x = 1\n"),
        (patches, "monkeypatch.setattr(a, 'b', 1)", "monkeypatch.setenv('A', '1')"),
        (patches, "with mock.patch('a'): pass", "client.patch('/a')"),
        (undocumented_tests, "def test_a():\n    pass", "def test_a():\n    '''It works.'''"),
    ],
)
def test_the_checks_find_what_they_look_for(check: object, bad: str, good: str) -> None:
    """Each check finds a planted offence and passes innocent code."""
    assert callable(check)
    assert check(bad)
    assert not check(good)
