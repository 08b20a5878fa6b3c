"""The checks behind the house's rules, as plain functions so that they can be tested themselves."""

import ast
from collections.abc import Iterator
from pathlib import Path

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 70
FORBIDDEN_NAMES = frozenset({"utils", "util", "helpers", "helper", "common", "manager", "base", "misc"})

_Function = ast.FunctionDef | ast.AsyncFunctionDef


def long_functions(source: str) -> list[str]:
    """Names the functions longer than MAX_FUNCTION_LINES."""
    return [
        node.name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, _Function) and (node.end_lineno or 0) - node.lineno + 1 > MAX_FUNCTION_LINES
    ]


def global_statements(source: str) -> int:
    """Counts the `global` statements."""
    return sum(isinstance(node, ast.Global) for node in ast.walk(ast.parse(source)))


def patches(source: str) -> int:
    """Counts the places that replace somebody's attribute in a test: patch, MagicMock, monkeypatch.setattr."""
    names = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute | ast.Name)]
    return sum(
        (isinstance(node, ast.Attribute) and node.attr in {"setattr", "patch", "MagicMock"} and _is_patcher(node))
        or (isinstance(node, ast.Name) and node.id in {"MagicMock", "AsyncMock", "patch"})
        for node in names
    )


def _is_patcher(node: ast.Attribute) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id in {"monkeypatch", "mock", "mocker"}


def undocumented_tests(source: str) -> list[str]:
    """Names the test functions that do not say in a sentence what behaviour they show."""
    return [
        node.name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, _Function) and node.name.startswith("test_") and not ast.get_docstring(node)
    ]


def python_files(root: Path, *folders: str) -> Iterator[Path]:
    """Yields the hand-written Python files below the folders."""
    for folder in folders:
        for path in sorted((root / folder).rglob("*.py")):
            if "gen" not in path.relative_to(root).parts[:2]:
                yield path
