"""The images: linted, each saying why it is not another one, not root, in the lock with the digest of their inputs."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import yaml

from components.platform.images import KUSTOMIZE, LOCK, ROOT, build_inputs_digest, kustomization

FOLDER = ROOT / "images"
NAMES = sorted(path.parent.name for path in FOLDER.glob("*/Dockerfile"))


@pytest.mark.parametrize("name", NAMES)
def test_a_dockerfile_is_clean_by_the_linter(name):
    linter = Path(sys.executable).with_name("hadolint")
    done = subprocess.run(
        [linter, "-c", FOLDER / ".hadolint.yaml", FOLDER / name / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", NAMES)
def test_an_image_has_two_stages_a_user_that_is_not_root_and_a_reason(name):
    text = (FOLDER / name / "Dockerfile").read_text()
    assert text.startswith("# "), "say why it is not another image"
    assert len(re.findall("^FROM ", text, re.MULTILINE)) == 2
    assert re.findall("^USER (.*)$", text, re.MULTILINE)[-1].startswith("1000")
    assert not re.search(r":latest\b", text)
    assert f"`{name}`" in (FOLDER / "README.md").read_text()


def test_the_lock_is_that_of_the_sources_and_the_manifests_are_that_of_the_lock():
    entries = json.loads(LOCK.read_text())
    assert sorted(entries) == NAMES
    for name, entry in entries.items():
        assert entry["published"] or entry["digest"] == build_inputs_digest(name), f"{name}: run 'make lock'"
    assert KUSTOMIZE.read_text() == kustomization(entries)
    assert len(yaml.safe_load(KUSTOMIZE.read_text())["images"]) == len(NAMES)


def test_npu_images_hold_no_kfp_and_one_torch():
    wanted = (FOLDER / "train-npu" / "requirements.txt").read_text()
    assert "kfp" not in wanted and "protobuf" not in wanted
    assert re.search(r"^torch==2\.9\.0$", wanted, re.MULTILINE) and re.search(r"^torch_npu==2\.9\.0", wanted, re.MULTILINE)


def test_the_serving_image_holds_all_that_its_player_imports(tmp_path):
    """The player starts from the files that the Dockerfile copies, and from nothing else of ours."""
    for sources, target in re.findall(
        r"^COPY (?!--)((?:(?:moworld|kernels)\S* )+)(\S+)$", (FOLDER / "serve-npu" / "Dockerfile").read_text(), re.MULTILINE
    ):
        for source in sources.split():
            place = tmp_path / target / Path(source).name if target.endswith("/") else tmp_path / target
            place.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if (ROOT / source).is_dir() else shutil.copyfile)(ROOT / source, place)
    # -S: without it the installed project's own finder fills in what was not copied
    command = [sys.executable, "-S", "-m", "moworld.inference.player", "no/such/model"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{sysconfig.get_path('purelib')}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and "model_index.json" in done.stderr, done.stderr
    for path in tmp_path.rglob("*.py"):  # imports inside functions too
        for name in re.findall(r"^\s*(?:from|import) (moworld[\w.]*)", path.read_text(), re.MULTILINE):
            module = tmp_path.joinpath(*name.split("."))
            assert module.is_dir() or module.with_suffix(".py").is_file(), f"{path.relative_to(tmp_path)} imports {name}"
    wanted = {line.partition("==")[0] for line in (FOLDER / "train-npu" / "requirements.txt").read_text().split()}
    assert {"aiohttp", "av", "opencv-python-headless", "pillow", "safetensors", "diffusers", "transformers"} <= wanted


def test_pinned_packages_of_the_registry_s_image_are_those_that_the_tests_run():
    lock = dict(line.split("==") for line in (ROOT / "requirements.lock").read_text().splitlines() if "==" in line)
    for line in (FOLDER / "mlflow" / "requirements.txt").read_text().splitlines():
        name, version = line.split("==")
        assert lock[name] == version
