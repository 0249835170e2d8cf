"""Every file and name in the tables of docs/concepts/paper.md exists, and every equation of the paper has a row."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "concepts" / "paper.md").read_text()
NUM_EQUATIONS = 18


def rows() -> list[tuple[str, str, list[str]]]:
    """First column, file and names of each table row that names a file."""
    found = []
    for line in PAGE.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) >= 3 and re.fullmatch(r"`[^`]+\.py`", cells[-2]):
            found.append((cells[0], cells[-2].strip("`"), re.findall(r"`([^`]+)`", cells[-1])))
    return found


def names_in(tree: ast.Module) -> set[str]:
    """Top-level functions, classes, methods as Class.method, assigned names and imported names (re-exports)."""
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{item.name}" for item in node.body if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)}
        if isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        if isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return names


def test_every_named_file_and_symbol_exists():
    found = rows()
    assert len(found) > 40
    missing = [
        f"{path}: {name}"
        for _, path, names in found
        for name in ["", *names]
        if not (ROOT / path).is_file() or (name and name not in names_in(ast.parse((ROOT / path).read_text())))
    ]
    assert not missing, missing


def test_every_equation_has_a_row():
    numbers: set[int] = set()
    for cell, *_ in rows():
        for first, joint, second in re.findall(r"eq\. (\d+)(?: (to|and) (\d+))?", cell):
            numbers |= set(range(int(first), int(second) + 1)) if joint == "to" else {int(first), int(second or first)}
    assert numbers == set(range(1, NUM_EQUATIONS + 1))
