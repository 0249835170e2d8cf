"""The locks are hashed, agree with each other and resolve on every platform and Python that the project supports."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.installation.environments import ROOT, UV

LOCKS = ("requirements.torch.lock", "requirements.base.lock", "requirements.lock")
IMAGES = ("requirements.cluster.lock", *(f"images/{name}/requirements.lock" for name in ("launcher", "mlflow", "train-cpu", "train-npu")))
PLATFORMS = ("x86_64-manylinux_2_28", "aarch64-manylinux_2_28", "aarch64-apple-darwin")
PYTHONS = ("3.11", "3.12", "3.13")
# Packages that the index has as source only. Each is pure Python, so that it builds everywhere.
SOURCE_ONLY = {
    "antlr4-python3-runtime": "omegaconf, for hydra, for dvc, pins the version 4.9.3, which has no wheel",
    "kfp-server-api": "generated client of kfp; no version has a wheel",
}


def blocks(lock: str) -> dict[str, list[str]]:
    """Returns the pins of a lock with their hashes, by package."""
    found: dict[str, list[str]] = {}
    for block in re.split(r"^(?=[A-Za-z0-9])", (ROOT / lock).read_text(), flags=re.MULTILINE)[1:]:
        found.setdefault(re.split(r"[\[=]", block)[0], []).append(block)
    return found


@pytest.mark.parametrize("lock", [*LOCKS, *IMAGES])
def test_every_requirement_is_pinned_and_hashed(lock):
    for package, pins in blocks(lock).items():
        for pin in pins:
            assert "==" in pin.splitlines()[0] and "--hash=sha256:" in pin, package


@pytest.mark.parametrize("lock", [*LOCKS, *IMAGES])
def test_a_package_with_extras_is_pinned_without_them_too(lock):
    """pip in its hash mode accepts a requirement without extras only from a pin without extras."""
    for package, pins in blocks(lock).items():
        lines = [pin.splitlines()[0] for pin in pins]
        assert not any("[" in line for line in lines) or any(line.startswith(f"{package}==") for line in lines), package


def test_the_base_lock_is_a_subset_of_the_whole_one_and_torch_is_apart():
    torch, base, everything = map(blocks, LOCKS)
    base |= blocks(IMAGES[0])
    version = re.compile(r"==(\S+)")
    for package, pins in base.items():
        assert {version.search(pin)[1] for pin in pins} == {version.search(pin)[1] for pin in everything[package]}, package
    of_torch = {name for name in torch if name == "torch" or name.startswith(("nvidia-", "cuda-"))}
    assert "torch" in of_torch and not of_torch & {*base, *everything}
    for package in torch.keys() - of_torch - {"triton"}:  # another build of torch leaves these to the other locks
        assert package in base, package


def test_the_lock_of_images_holds_no_development_tool():
    assert not {"pytest", "mypy", "ruff", "playwright", "kubernetes-validate", "triton", "uv"} & blocks(IMAGES[0]).keys()


def test_the_base_lock_holds_nothing_of_the_extras():
    extras = {"kfp", "mlflow", "dvc", "great-expectations", "transformers", "pycolmap", "vizdoom", "opencv-python-headless", "scipy", "pyarrow"}
    assert not extras & blocks(LOCKS[1]).keys()


@pytest.mark.slow
@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("platform", PLATFORMS)
def test_the_locks_resolve_completely(platform, python, tmp_path):
    """Dependencies are resolved, not skipped: a package that the locks lack has no hash, and uv refuses it."""
    sources = [f"--no-binary={package}" for package in SOURCE_ONLY]
    locks = [option for lock in (LOCKS[0], LOCKS[2]) for option in ("-r", lock)]
    command = [UV, "pip", "install", "--dry-run", "--require-hashes", "--only-binary=:all:", *sources, *locks]
    command += ["--target", tmp_path / "none", "--python-platform", platform, "--python-version", python]
    environment = {**os.environ, "MACOSX_DEPLOYMENT_TARGET": "14.0", "UV_FIND_LINKS": ""}
    done = subprocess.run([str(part) for part in command], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "torch==2.13.0" in done.stderr and "kfp==" in done.stderr
    assert ("pycolmap" in done.stderr) == (platform != "aarch64-manylinux_2_28")
    assert ("nvidia-cudnn" in done.stderr) == ("linux" in platform)


@pytest.mark.slow
@pytest.mark.parametrize("locks", [(LOCKS[0], IMAGES[0]), (IMAGES[1],), (IMAGES[2],), (LOCKS[0], IMAGES[3])])
def test_the_locks_of_images_resolve_completely(locks, tmp_path):
    sources = [f"--no-binary={package}" for package in SOURCE_ONLY]
    command = [UV, "pip", "install", "--dry-run", "--require-hashes", "--only-binary=:all:", *sources]
    command += [*(option for lock in locks for option in ("-r", lock)), "--target", tmp_path / "none"]
    command += ["--python-platform", PLATFORMS[0], "--python-version", "3.11"]
    environment = {**os.environ, "UV_FIND_LINKS": ""}
    done = subprocess.run([str(part) for part in command], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_missing_package_is_noticed(tmp_path):
    """The check above fails on a lock with a hole, here one without httpcore2."""
    text = (ROOT / LOCKS[2]).read_text()
    hole = tmp_path / "hole.lock"
    hole.write_text(re.sub(r"^httpcore2==(?:.*\\\n)*.*\n", "", text, flags=re.MULTILINE))
    assert hole.read_text() != text
    command = [UV, "pip", "install", "--dry-run", "--require-hashes", "-r", ROOT / LOCKS[0], "-r", hole, "--target", tmp_path / "none"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "httpcore2" in done.stderr


def test_source_only_packages_are_in_the_lock():
    assert SOURCE_ONLY.keys() <= blocks(LOCKS[2]).keys()
    assert Path(UV).is_file()
