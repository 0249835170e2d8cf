"""Import names of version 0.1 are aliases, not second copies; another distribution's package of that name is found first."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
ACTIVATE = "from moworld_ops.former_names import activate; activate(); activate()\n"


def run(code: str, folder: Path) -> str:
    command = [sys.executable, "-c", f"import sys; sys.path[:0] = [{str(ROOT)!r}]\n{ACTIVATE}{code}"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


def test_a_former_name_is_the_same_module_object(tmp_path):
    code = """
from components.platform.steps import Refused
import data_contracts.load, kernels.dispatch, moworld_ops.components.platform.steps as present
print(Refused is present.Refused, data_contracts.load.__name__, kernels.dispatch.__name__)
"""
    assert run(code, tmp_path) == "True moworld_ops.data_contracts.load moworld.kernels.dispatch"


def test_another_distributions_package_wins(tmp_path):
    (tmp_path / "components").mkdir()
    (tmp_path / "components" / "__init__.py").write_text("OWNER = 'another'\n")
    (tmp_path / "components" / "part.py").write_text("")
    assert run("import components.part; print(components.OWNER)", tmp_path) == "another"
