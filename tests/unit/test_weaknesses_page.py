"""The page about Trove's weaknesses names all of them, and only tests that exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "WEAKNESSES.md"
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def rows() -> dict[int, str]:
    """The last column by number."""
    cells = [line.strip("|").split(" | ") for line in PAGE.read_text().splitlines() if re.match(r"\| \d+ \|", line)]
    return {int(row[0]): row[-1] for row in cells}


@cache
def defined_in(path: str) -> frozenset[str]:
    file = ROOT / path
    if not file.exists():
        return frozenset()
    tree = ast.parse(file.read_text())
    return frozenset(
        node.name for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name.startswith("test_")
    )


def missing(text: str) -> list[str]:
    return [f"{path}::{name}" for path, name in NAMED.findall(text) if name not in defined_in(path)]


def test_every_weakness_has_a_test_or_says_what_it_waits_for():
    found = rows()
    assert list(found) == list(range(1, 33))
    for number, shown in found.items():
        assert NAMED.search(shown) or re.search(r"later: \w", shown), number
        assert shown.count("::") == len(NAMED.findall(shown)), number


def test_the_tests_it_names_exist():
    assert missing(PAGE.read_text()) == []


def test_a_test_that_does_not_exist_would_be_found():
    assert missing("`tests/unit/test_weaknesses_page.py::test_nothing`") == [
        "tests/unit/test_weaknesses_page.py::test_nothing",
    ]
    assert missing("`tests/none.py::test_nothing`") == ["tests/none.py::test_nothing"]


def test_every_test_of_a_weakness_is_named():
    """Those whose names say which weakness they are about."""
    page = PAGE.read_text()
    for file in sorted((ROOT / "tests").rglob("test_*.py")):
        path = file.relative_to(ROOT).as_posix()
        for name in defined_in(path):
            if re.match(r"test_weakness_\d", name):
                assert f"`{path}::{name}`" in page
