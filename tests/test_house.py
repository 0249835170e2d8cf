"""The arrows hold; the library imports without triton, torch_npu, kfp and mlflow; `kernels` is ours; infrastructure stays in its rooms."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import kernels

ROOT = Path(__file__).parents[1]
PACKAGES = ("moworld", "kernels", "data_contracts", "components", "pipelines")
HOMES = {
    "kfp": ("components/*/component.py", "pipelines/*.py", "pipelines/cli/*.py"),
    "kubernetes": ("components/platform/*.py",),
    "mlflow": ("components/platform/*.py",),
    "dvc": ("components/platform/*.py",),
    "model_signing": ("components/platform/*.py",),
    "triton": ("kernels/*/triton_kernel.py", "kernels/*/hopper_kernel.py"),
    "torch_npu": ("kernels/*/npu_binding.py",),
}
HIDING = """
import importlib, pkgutil, sys

for name in ("triton", "torch_npu", "kfp", "mlflow"):
    sys.modules[name] = None  # an import fails, a probe finds nothing
count = 0
for package in ("moworld", "kernels"):
    for found in pkgutil.walk_packages(importlib.import_module(package).__path__, package + "."):
        if found.name.split(".")[-1] not in ("triton_kernel", "hopper_kernel", "npu_binding", "__main__"):
            importlib.import_module(found.name)
            count += 1
print(count)
"""


def sources(*packages: str) -> list[Path]:
    return [path for package in packages for path in sorted((ROOT / package).rglob("*.py"))]


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


def test_the_library_imports_with_triton_torch_npu_kfp_and_mlflow_hidden():
    done = subprocess.run([sys.executable, "-c", HIDING], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20


def test_kernels_is_ours():
    assert Path(kernels.__file__).is_relative_to(ROOT)


@pytest.mark.parametrize("package", sorted(HOMES))
def test_infrastructure_is_met_in_its_rooms_alone(package):
    allowed = {path for pattern in HOMES[package] for path in ROOT.glob(pattern)}
    elsewhere = [path for path in sources(*PACKAGES) if package in {name.split(".")[0] for name in imported(path)} and path not in allowed]
    if package == "kubernetes":  # kfp's own extension of that name is placement, not the client
        elsewhere = [path for path in elsewhere if "kubernetes" in imported(path)]
    assert elsewhere == []


def test_a_component_is_a_face_a_readme_and_a_step():
    folders = [folder for folder in (ROOT / "components").iterdir() if folder.is_dir() and folder.name not in ("platform", "__pycache__")]
    assert len(folders) == 14
    for folder in folders:
        assert (folder / "README.md").is_file() and (folder / "step.py").is_file(), folder
        assert len((folder / "component.py").read_text().splitlines()) <= 65, folder


def test_no_module_of_the_command_line_loads_torch_kfp_or_mlflow_for_help():
    code = "import sys; import pipelines.cli.app; print([n for n in ('torch', 'kfp', 'mlflow', 'dvc', 'diffusers') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
