"""Every package that the code imports is declared in pyproject.toml, and the base declares what serving imports."""

import ast
import importlib.metadata
import re
import sys
import tomllib
from collections.abc import Mapping
from functools import cache

import pytest

from tests.installation.environments import ROOT

# Found on the machine or beside the project, not installed with it: each is imported behind a check.
NOT_DECLARED = {
    "torch_npu": "an Ascend host's own",
    "torchao": "a peer of `moworld bench linear`",
    "webdataset": "a peer of `moworld bench loader`",
    "streaming": "a peer of `moworld bench loader`",
    "google": "protobuf, which kfp requires",
    "dvc_data": "an error that DVC, which requires it, does not wrap",
    "urllib3": "the errors of the Kubernetes client, which requires it",
    "kfp_server_api": "the client of kfp, which requires it",
    "gsplat": "an NVIDIA host's own: it compiles CUDA code",
}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=!; ]", requirement)[0].lower().replace("_", "-") for requirement in requirements}


def imported(*folders: str) -> dict[str, set[str]]:
    """Returns the top-level names of others that Python files import, with the files that do."""
    found: dict[str, set[str]] = {}
    for path in (path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                modules = [node.module]
            for top in {module.partition(".")[0] for module in modules} - {*sys.stdlib_module_names, "moworld", "moworld_ops"}:
                found.setdefault(top, set()).add(str(path.relative_to(ROOT)))
    return found


@cache
def owners() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()


def distributions(module: str) -> set[str]:
    return {owner.lower().replace("_", "-") for owner in owners().get(module, [module])}


def test_every_imported_package_is_declared():
    declared = names(PROJECT["dependencies"]) | names([line for extra in PROJECT["optional-dependencies"].values() for line in extra])
    missing = {
        module: files
        for module, files in imported("moworld", "moworld_ops").items()
        if module not in NOT_DECLARED and not distributions(module) & declared
    }
    assert missing == {}


@pytest.mark.parametrize("folder", ["moworld/camera", "moworld/model", "moworld/inference"])
def test_serving_imports_the_base_at_module_level_only(folder):
    base = names(PROJECT["dependencies"])
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                modules = [node.module]
            for module in {name.partition(".")[0] for name in modules} - {*sys.stdlib_module_names, "moworld", "moworld_ops"}:
                assert distributions(module) & base, f"{path}: {module}"
