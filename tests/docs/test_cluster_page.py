"""Every test that the table of tests/cluster/README.md names exists, and the table names every file of that directory's tests."""

import ast
import re
from pathlib import Path

from tests.docs.test_concepts import names_in

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "tests" / "cluster"
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (FOLDER / "README.md").read_text())


def test_every_named_test_exists():
    assert len(NAMED) > 40
    missing = [
        f"{path}::{name}"
        for path, name in NAMED
        if not (ROOT / path).is_file() or name not in names_in(ast.parse((ROOT / path).read_text()))
    ]
    assert not missing, missing


def test_every_file_of_tests_has_a_row():
    named = {path for path, _ in NAMED}
    unnamed = [file.name for file in sorted(FOLDER.glob("test_*.py")) if f"tests/cluster/{file.name}" not in named]
    assert unnamed == ["test_controllers.py"], "it tests the control plane itself"
