"""The images: linted, each saying why it is not another one, not root, in the lock with the digest of their inputs."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from packaging.utils import canonicalize_name

from components.platform.bases import bases, built_on
from components.platform.images import KUSTOMIZE, LOCK, ROOT, build_inputs_digest, kustomization, unpinned
from pipelines import profile
from pipelines.placement import LAUNCHERS, Cluster
from tests.images.contents import OURS, copy_of, imports, packages, providers, reached, site

FOLDER = ROOT / "images"
CPU_STEPS = ("train_curriculum", "train_autoregressive", "distill")
NPU_STEPS = (*CPU_STEPS, "cache_features", "quantize", "benchmark")
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
    assert len(re.findall(r"^FROM \$\{\w+\}", text, re.MULTILINE)) == 2 and len(bases(name)) == 1, "the base comes as an argument"
    assert re.findall("^USER (.*)$", text, re.MULTILINE)[-1].startswith("1000")
    assert not re.search(r":latest\b", text)
    assert f"`{name}`" in (FOLDER / "README.md").read_text()


def test_the_lock_is_that_of_the_sources_and_the_manifests_are_that_of_the_lock():
    entries = json.loads(LOCK.read_text())
    assert sorted(entries) == NAMES
    for name, entry in entries.items():
        assert entry["published"] or entry["digest"] == build_inputs_digest(name), f"{name}: run 'make lock'"
        assert entry["published"] or entry["bases"] == sorted(built_on(name).values()), f"{name}: run 'make lock'"
    assert unpinned() == sorted({base for entry in entries.values() for base in entry["bases"] if "@" not in base})
    assert KUSTOMIZE.read_text() == kustomization(entries)
    assert len(yaml.safe_load(KUSTOMIZE.read_text())["images"]) == len(NAMES)


def test_npu_images_hold_no_kfp_and_one_torch():
    wanted = (FOLDER / "train-npu" / "requirements.txt").read_text()
    assert "kfp" not in wanted and "protobuf" not in wanted
    assert re.search(r"^torch==2\.9\.0$", wanted, re.MULTILINE) and re.search(r"^torch_npu==2\.9\.0", wanted, re.MULTILINE)
    assert all("==" in line for line in wanted.splitlines())
    for name in ("train-npu", "serve-npu"):  # `pip --target` puts torchrun, which TrainJobs start, into bin of its folder
        assert "ENV PATH=/opt/packages/bin:$PATH " in (FOLDER / name / "Dockerfile").read_text()


# What starts in an image, by module; of the launcher, what the faces of its components import inside.
STARTS = {
    "launcher": ["components.platform.launch", "components.platform.home", "components.platform.steps", "components.preflight.step"],
    "train-cpu": ["components.platform.launch", *(f"components.{step}.step" for step in CPU_STEPS)],
    "train-npu": ["components.platform.launch", *(f"components.{step}.step" for step in NPU_STEPS)],
    "serve-npu": ["moworld.inference.player.__main__"],
}
RANK = {
    ("components.platform.launch", "components.platform.trainjobs"),  # a rank launches nothing
    ("moworld.camera.formats", "pycolmap"),  # models of COLMAP are read where footage comes in
}
NEVER = {
    "launcher": set(),
    "train-cpu": RANK,
    "train-npu": RANK
    | {
        ("components.cache_features.step", "components.platform.revisions"),  # shards go under DVC in the launcher's pod
        ("components.cache_features.step", "data_contracts.load"),
        ("moworld.data.game", "vizdoom"),  # games are recorded by `collect`
    },
    "serve-npu": {("moworld.camera.formats", "pycolmap")},
}


@pytest.mark.parametrize("name", sorted(STARTS))
def test_an_image_holds_all_that_what_starts_in_it_imports(name, tmp_path):
    """Our sources as its Dockerfile copies them, and the packages that its requirements bring, hold every import, those inside functions too."""
    needed, others = reached(STARTS[name], NEVER[name])
    tree, held = copy_of(name, tmp_path / "src"), packages(requirements_of(name))
    for module in needed:
        path = tree.joinpath(*module.split("."))
        assert (path / "__init__.py").is_file() or path.with_suffix(".py").is_file(), f"{module} is not copied"
    assert name == "serve-npu" or "s3fs" in held, "what fsspec imports for s3:// stands in no source"
    for package, users in others.items():
        assert providers()[package] & held, f"{', '.join(sorted(users))}: nothing brings {package}"
    # -S: without it the installed project's own finder, and this environment's packages, fill in what the image lacks
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": f"{tree}{os.pathsep}{site(held, tmp_path / 'site')}"}
    begun = {"kfp.dsl.executor_main"} if name == "launcher" else set()  # with what a task's command begins
    code = ["-c", f"import importlib\nfor name in {sorted(needed | begun)}: importlib.import_module(name)"]
    command = ["-m", "moworld.inference.player", "no/such/model"] if name == "serve-npu" else code
    done = subprocess.run([sys.executable, "-S", *command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    if name == "serve-npu":
        assert done.returncode == 2 and "model_index.json" in done.stderr, done.stderr
    else:
        assert done.returncode == 0, done.stderr


def requirements_of(name: str) -> Path:
    """The file whose packages pip installs in an image."""
    return ROOT / re.findall(r"(images/\S+/requirements\.txt)", (FOLDER / name / "Dockerfile").read_text())[0]


def test_the_images_are_told_apart_by_what_they_hold():
    heavy = {"torch", "mlflow", "opencv-python-headless", "dvc", "diffusers", "pandas", "scipy"}
    assert packages(requirements_of("launcher")) & heavy == set()
    assert not packages(requirements_of("train-cpu")) & {"kfp", "kubernetes", "mlflow", "dvc"}


def test_every_step_starts_on_an_image_that_was_looked_at():
    """The jobs' images and the launchers of both profiles are those whose contents are proven above."""
    for profile_name in ("wan22-a14b", "pocket"):
        resources = profile.load(profile_name)[1].resources
        cluster = Cluster(resources)
        for step in resources.steps:
            for pool in cluster.pools(step):
                assert not pool.launches or f"components.{step}.step" in STARTS[pool.image], f"{profile_name}: {step} on {pool.image}"
    for step in LAUNCHERS:  # a face starts no other module than those that were looked at
        face = set(imports(ROOT / "components" / step / "component.py", step))
        assert {module for module in face if module.startswith(OURS)} <= set(STARTS["launcher"]), step


@pytest.mark.parametrize("name", ["launcher", "train-cpu"])
def test_packages_of_an_image_are_all_in_the_lock(name):
    """pip installs them with the lock as constraints: one that it does not hold would come in any version."""
    locked = {canonicalize_name(line.partition("==")[0]) for line in (ROOT / "requirements.lock").read_text().splitlines() if "==" in line}
    assert packages(requirements_of(name)) <= locked
    assert "--constraint requirements.lock -r requirements.txt" in (FOLDER / name / "Dockerfile").read_text()


def test_the_bake_file_builds_every_image_on_its_base_labelled_and_with_an_sbom():
    text = (FOLDER / "docker-bake.hcl").read_text()
    targets = dict(re.findall(r'^target "([\w-]+)" \{\n(.*?)^\}', text, re.MULTILINE | re.DOTALL))
    assert sorted(name for name in targets if not name.startswith("_")) == NAMES
    assert sorted(json.loads(re.search(r'^group "default" \{ targets = (.*) \}', text, re.MULTILINE)[1])) == NAMES
    assert 'revision" = COMMIT' in targets["_common"] and '"type=sbom"' in targets["_common"]
    given = json.loads((FOLDER / "bases.json").read_text())["variable"]
    for name in NAMES:
        (parent,) = re.findall(r'inherits += \["(\w+)"\]', targets[name])
        assert 'inherits = ["_common"]' in re.sub(" +", " ", targets[parent]) and f'"images/{name}/Dockerfile"' in targets[name]
        assert re.search(r":\$\{COMMIT\}", targets[name])
        for argument, base in built_on(name).items():
            assert f"{argument} = {argument}" in targets[parent] and given[argument]["default"] == base


def test_pinned_packages_of_the_registry_s_image_are_those_that_the_tests_run():
    lock = dict(line.split("==") for line in (ROOT / "requirements.lock").read_text().splitlines() if "==" in line)
    for line in (FOLDER / "mlflow" / "requirements.txt").read_text().splitlines():
        name, version = line.split("==")
        assert lock[name] == version
