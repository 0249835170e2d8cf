"""The code outside a clone, as an installed wheel has it."""

import json
import shutil
import subprocess
import sys

import pytest

from moworld_ops.components.platform.images import image
from moworld_ops.components.platform.source import ROOT, clone_root, code_revision

CODE = """
import json
from moworld.errors import InputError
from moworld_ops.components.platform.images import image, unpublished
from moworld_ops.components.platform.registry import model_folder
from moworld_ops.components.platform.source import code_revision
try:
    model_folder("")
except InputError as error:
    message = str(error)
print(json.dumps({"image": image("data"), "unpublished": unpublished(), "revision": code_revision(), "model": message}))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Runs Python with our packages and their metadata in a folder of their own, inside a git repository of somebody else."""
    folder = tmp_path_factory.mktemp("elsewhere")
    subprocess.run(["git", "init", "-q", folder], check=True)
    site = folder / "site"
    for package in ("moworld", "moworld_ops"):
        shutil.copytree(ROOT / package, site / package, ignore=shutil.ignore_patterns("__pycache__"))
    (site / "moworld_operations-9.9.dist-info").mkdir()
    (site / "moworld_operations-9.9.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: moworld-operations\nVersion: 9.9\n")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(site), "MOWORLD_HOME": str(folder / "home"), "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False)

    return run


def test_an_installed_wheel_finds_its_image_lock_its_version_and_says_where_a_model_is(wheel):
    done = wheel("-c", CODE)
    found = json.loads(done.stdout or "{}")
    assert found.pop("model", "").endswith("which has models/pocket-long (git clone https://github.com/moworld-operations/python)"), done.stderr
    assert found == {"image": image("data"), "unpublished": found["unpublished"], "revision": "9.9"}


@pytest.mark.parametrize("module", ["platform.images", "readmes"])
def test_maintenance_outside_a_clone_is_refused_in_one_line(wheel, module):
    done = wheel("-m", f"moworld_ops.components.{module}")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "expected a clone of the repository; git clone https://" in done.stderr


def test_a_clone_is_found_with_its_commit():
    assert clone_root("this test") == ROOT
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    assert code_revision().removesuffix("+changes") == head
