"""Layers: imports point down, the library imports without optional packages, infrastructure stays in its modules."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from moworld import kernels

ROOT = Path(__file__).parents[1]
ALLOWED = {  # package -> the files that may import it
    "kfp": ("moworld_ops/components/*/component.py", "moworld_ops/pipelines/*.py", "moworld_ops/pipelines/cli/*.py"),
    "kubernetes": ("moworld_ops/components/platform/*.py",),
    "mlflow": ("moworld_ops/components/platform/*.py",),
    "dvc": ("moworld_ops/components/platform/*.py",),
    "model_signing": ("moworld_ops/components/platform/*.py",),
    "triton": ("moworld/kernels/*/triton_kernel.py", "moworld/kernels/*/hopper_kernel.py"),
    "torch_npu": ("moworld/kernels/*/npu_binding.py",),
}
HIDING = """
import importlib, pkgutil, sys

for name in ("triton", "torch_npu", "kfp", "mlflow"):
    sys.modules[name] = None  # its import fails, find_spec finds nothing
count = 0
for package in ("moworld",):
    for found in pkgutil.walk_packages(importlib.import_module(package).__path__, package + "."):
        if found.name.split(".")[-1] not in ("triton_kernel", "hopper_kernel", "npu_binding", "__main__"):
            importlib.import_module(found.name)
            count += 1
print(count)
"""


def sources() -> list[Path]:
    return [path for package in ("moworld", "moworld_ops") for path in sorted((ROOT / package).rglob("*.py"))]


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return names


def test_imports_point_down():
    done = subprocess.run([str(Path(sys.executable).with_name("lint-imports"))], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_library_imports_without_triton_torch_npu_kfp_and_mlflow():
    done = subprocess.run([sys.executable, "-c", HIDING], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20


def test_kernels_come_from_this_repository():
    assert Path(kernels.__file__).is_relative_to(ROOT)


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_infrastructure_is_imported_only_where_it_is_allowed(package):
    allowed = {path for pattern in ALLOWED[package] for path in ROOT.glob(pattern)}
    elsewhere = [path for path in sources() if package in {name.split(".")[0] for name in imported(path)} and path not in allowed]
    if package == "kubernetes":  # kfp's extension of that name is placement, not the client
        elsewhere = [path for path in elsewhere if "kubernetes" in imported(path)]
    assert elsewhere == []


def test_a_component_folder_has_a_wrapper_a_readme_and_a_step():
    components = ROOT / "moworld_ops" / "components"
    folders = [folder for folder in components.iterdir() if folder.is_dir() and folder.name not in ("platform", "__pycache__")]
    assert len(folders) == 17
    for folder in folders:
        assert (folder / "README.md").is_file() and (folder / "step.py").is_file(), folder
        assert len((folder / "component.py").read_text().splitlines()) <= 65, folder


def test_settings_modules_import_no_heavy_package():
    for path in (ROOT / "moworld").rglob("settings.py"):
        assert {name.split(".")[0] for name in imported(path)} <= {"re", "typing", "pydantic", "moworld"}, path
