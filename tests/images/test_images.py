"""Static checks of the images: linter, base, user, lock, and contents against what their entry points import."""

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from packaging.utils import canonicalize_name

from moworld_ops.components.platform.bases import bases, pinned_bases
from moworld_ops.components.platform.images import KUSTOMIZE, LOCK, copied_files, inputs_digest, kustomization, unpinned
from moworld_ops.components.platform.pools import TrainJob
from moworld_ops.components.platform.source import ROOT
from moworld_ops.pipelines import profile
from moworld_ops.pipelines.placement import LAUNCHERS, Cluster
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
def test_an_image_has_two_stages_a_user_other_than_root_a_reason_and_compiled_modules(name):
    text = (FOLDER / name / "Dockerfile").read_text()
    assert text.startswith("# "), "the first line says why the image exists"
    assert len(re.findall("^FROM ", text, re.MULTILINE)) == 2
    assert len(re.findall(r"^FROM \$\{\w+\}", text, re.MULTILINE)) == 2 and len(bases(name)) == 1, "the base comes as an argument"
    assert re.findall("^USER (.*)$", text, re.MULTILINE)[-1].startswith("1000")
    assert re.search(r"useradd --uid 1000 ", text.rpartition("\nFROM ")[2]), "without an entry in passwd, torch and getpass fail"
    assert not re.search(r":latest\b", text)
    assert f"`{name}`" in (FOLDER / "README.md").read_text()
    assert "--no-compile" not in text and "PYTHONDONTWRITEBYTECODE" not in text
    assert name == "mlflow" or re.search(r"-m compileall -q --invalidation-mode unchecked-hash moworld", text), "a pod would compile at each start"
    assert name.endswith("-npu") or "bin/pip check" in text


def test_the_lock_matches_the_sources_and_the_manifests_match_the_lock():
    entries = json.loads(LOCK.read_text())
    assert sorted(entries) == NAMES
    for name, entry in entries.items():
        assert entry["published"] or entry["digest"] == entry["inputs"], f"{name}: run 'make lock'"
        assert entry["published"] or entry["bases"] == sorted(pinned_bases(name).values()), f"{name}: run 'make lock'"
    assert unpinned() == sorted({base for entry in entries.values() for base in entry["bases"] if "@" not in base})
    assert KUSTOMIZE.read_text() == kustomization(entries)
    assert len(yaml.safe_load(KUSTOMIZE.read_text())["images"]) == len(NAMES)


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """Returns a clone of this repository with the changes of the working tree."""
    folder = tmp_path_factory.mktemp("clone") / "python"
    subprocess.run(["git", "clone", "-q", "--depth=1", f"file://{ROOT}", folder], check=True)
    changed = subprocess.run(["git", "ls-files", "-z", "-m", "-o", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True)
    for path in filter(None, changed.stdout.split("\0")):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).unlink(missing_ok=True)
        if (ROOT / path).is_file():
            (folder / path).write_bytes((ROOT / path).read_bytes())
    return folder


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"pocket"}))  # pocket copies everything
def test_the_inputs_of_an_image_are_the_files_that_it_copies(name, tmp_path):
    tree = copy_of(name, tmp_path)
    copied = {path.relative_to(tree).as_posix() for path in tree.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    found = {path.relative_to(ROOT).as_posix() for path in copied_files(name)}
    assert {path for path in copied if path.startswith(OURS)} - {LOCK.relative_to(ROOT).as_posix()} == {path for path in found if path.startswith(OURS)}
    assert {Path(path).name for path in copied} - {LOCK.name} == {Path(path).name for path in found}


def test_the_digest_of_an_image_follows_the_sources_that_it_copies(clone):
    def changed(path: str) -> set[str]:
        before = {name: inputs_digest(name, clone) for name in NAMES}
        with open(clone / path, "a") as stream:
            stream.write("\n")
        return {name for name in NAMES if inputs_digest(name, clone) != before[name]}

    assert changed("moworld/model/settings.py") == set(NAMES) - {"mlflow"}
    assert changed("moworld/training/loop.py") == {"data", "pocket", "train-cpu", "train-npu"}
    assert changed("moworld_ops/pipelines/plan.py") == {"data", "pocket"}
    assert changed("requirements.cluster.lock") == {"data", "pocket"}
    assert changed("requirements.torch.lock") == {"data", "pocket", "train-cpu"}
    assert changed("images/launcher/requirements.lock") == {"launcher", "pocket"}
    assert changed("images/mlflow/requirements.txt") == {"mlflow", "pocket"}
    assert changed(str(LOCK.relative_to(ROOT))) == changed(str(KUSTOMIZE.relative_to(ROOT))) == set()


def test_a_pushed_image_of_other_sources_is_noticed(clone, tmp_path):
    """Records the digests of a build, as bake's metadata file has them, in a clone; then changes a file that one of the images copies."""

    def python(*command: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(clone)}
        return subprocess.run([sys.executable, *command], cwd=clone, env=environment, capture_output=True, text=True, check=False)

    module, seen = "moworld_ops.components.platform.images", "from moworld_ops.components.platform import images; print(images.outdated())"
    built = tmp_path / "built.json"
    built.write_text(json.dumps({name: {"containerimage.digest": f"sha256:{number:064x}"} for number, name in enumerate(["data", "mlflow"])}))
    done = python("-m", module, "record", str(built))
    assert done.returncode == 0, done.stderr
    entries = json.loads((clone / LOCK.relative_to(ROOT)).read_text())
    assert entries["mlflow"]["published"] and entries["mlflow"]["digest"] == f"sha256:{1:064x}" and not entries["pocket"]["published"]
    assert python("-c", seen).stdout.strip() == "[]"
    with open(clone / "moworld" / "errors.py", "a") as stream:
        stream.write("\n")
    assert python("-c", seen).stdout.strip() == "['data']"
    assert python("-m", module).returncode == 0 and python("-c", seen).stdout.strip() == "['data']"  # `make lock` does not hide it
    built.write_text(json.dumps({"data": {}}))
    refused = python("-m", module, "record", str(built))
    assert refused.returncode == 2 and "no containerimage.digest, expected the digest of a pushed image" in refused.stderr


def test_the_history_of_the_clone_is_in_no_image():
    """Image pocket copies the whole context."""
    assert ".git" in (ROOT / ".dockerignore").read_text().splitlines()


def test_npu_images_hold_no_kfp_and_one_torch():
    wanted = (FOLDER / "train-npu" / "requirements.txt").read_text()
    assert "kfp" not in wanted and "protobuf" not in wanted
    assert re.search(r"^torch==2\.9\.0$", wanted, re.MULTILINE) and re.search(r"^torch_npu==2\.9\.0", wanted, re.MULTILINE)
    assert all("==" in line for line in wanted.splitlines())
    for name in ("train-npu", "serve-npu"):  # `pip --target` puts torchrun, which TrainJobs start, into bin of its folder
        assert "ENV PATH=/opt/packages/bin:$PATH " in (FOLDER / name / "Dockerfile").read_text()


# Entry points of each image, by module; for the launcher the modules that its components import.
STARTS = {
    "launcher": ["moworld_ops.components.platform.launch", "moworld_ops.components.platform.leftovers", "moworld_ops.components.platform.context", "moworld_ops.components.platform.steps", "moworld_ops.components.platform.store", "moworld_ops.components.preflight.step"],
    "train-cpu": ["moworld_ops.components.platform.launch", *(f"moworld_ops.components.{step}.step" for step in CPU_STEPS)],
    "train-npu": ["moworld_ops.components.platform.launch", *(f"moworld_ops.components.{step}.step" for step in NPU_STEPS)],
    "serve-npu": ["moworld.inference.player.__main__"],
}
RANK = {
    ("moworld_ops.components.platform.launch", "moworld_ops.components.platform.trainjobs"),  # a rank launches no job
    ("moworld.camera.colmap", "pycolmap"),  # only imports of footage read COLMAP models
    ("moworld.camera.lens", "pycolmap"),
}
ELASTIC = ("torch.distributed.elastic.multiprocessing", "torch.distributed.elastic.multiprocessing.errors", "torch.distributed.launcher.api")
NEVER = {
    # no pool of kind torchrun runs in it, and it reads no table
    "launcher": {*(("moworld_ops.components.platform.ranks", name) for name in ELASTIC), ("moworld.files", "pyarrow")},
    "train-cpu": RANK,
    "train-npu": RANK
    | {
        ("moworld_ops.components.cache_features.step", "moworld_ops.components.platform.revisions"),  # the launcher's pod records shards with DVC
        ("moworld_ops.components.cache_features.step", "moworld_ops.components.platform.dataset"),
        ("moworld_ops.components.cache_features.step", "moworld_ops.data_contracts.load"),
    },
    "serve-npu": {("moworld.camera.colmap", "pycolmap"), ("moworld.camera.lens", "pycolmap")},
}


@pytest.mark.parametrize("name", sorted(STARTS))
def test_an_image_contains_every_import_of_its_entry_points(name, tmp_path):
    """Our sources as its Dockerfile copies them and the packages of its requirements contain every import, also inside functions."""
    needed, others = reached(STARTS[name], NEVER[name])
    tree, held = copy_of(name, tmp_path / "src"), packages(requirements_of(name))
    for module in needed:
        path = tree.joinpath(*module.split("."))
        assert (path / "__init__.py").is_file() or path.with_suffix(".py").is_file(), f"{module} is not copied"
    assert name == "serve-npu" or "s3fs" in held, "fsspec imports it for s3://, no source does"
    for package, users in others.items():
        assert providers()[package] & held, f"{', '.join(sorted(users))}: {package} is not installed"
    # -S: otherwise this environment's packages and the installed project would provide what the image lacks
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": f"{tree}{os.pathsep}{site(held, tmp_path / 'site')}"}
    begun = {"kfp.dsl.executor_main"} if name == "launcher" else set()  # the start of a task's command
    code = ["-c", f"import importlib\nfor name in {sorted(needed | begun)}: importlib.import_module(name)"]
    command = ["-m", "moworld.inference.player", "no/such/model"] if name == "serve-npu" else code
    done = subprocess.run([sys.executable, "-S", *command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    if name == "serve-npu":
        assert done.returncode == 2 and "model_index.json" in done.stderr, done.stderr
    else:
        assert done.returncode == 0, done.stderr


def requirements_of(name: str) -> Path:
    """Returns the requirements file of an image; the lock that it may install is made from it."""
    (folder,) = set(re.findall(r"(images/\S+)/requirements\.\w+", (FOLDER / name / "Dockerfile").read_text()))
    return ROOT / folder / "requirements.txt"


def test_an_image_contains_no_heavy_package_that_it_does_not_need():
    heavy = {"torch", "mlflow", "opencv-python-headless", "dvc", "diffusers", "pandas", "scipy"}
    assert packages(requirements_of("launcher")) & heavy == set()
    assert not packages(requirements_of("train-cpu")) & {"kfp", "kubernetes", "mlflow", "dvc"}


def test_every_step_starts_on_an_image_that_was_checked():
    """The images of jobs and launchers in both profiles are those whose contents are checked above."""
    for profile_name in ("wan22-a14b", "pocket"):
        resources = profile.load(profile_name)[1].resources
        cluster = Cluster(resources)
        for step in resources.steps:
            for pool in cluster.resources.pools_of(step):
                assert not isinstance(pool, TrainJob) or f"moworld_ops.components.{step}.step" in STARTS[pool.image], f"{profile_name}: {step} on {pool.image}"
    for step in LAUNCHERS:  # a component imports no other module than those that were checked
        imported = set(imports(ROOT / "moworld_ops" / "components" / step / "component.py", step))
        assert {module for module in imported if module.startswith(OURS)} <= set(STARTS["launcher"]), step


def pinned(lock: str) -> dict[str, str]:
    """Returns the pins of a lock: name to version."""
    found = re.findall(r"^([\w.-]+)(?:\[.*?\])?==(\S+)", (ROOT / lock).read_text(), re.MULTILINE)
    return {canonicalize_name(name): version for name, version in found}


OWN = {"data": "requirements.cluster.lock", "pocket": "requirements.cluster.lock", "train-cpu": "images/train-cpu/requirements.lock"}


@pytest.mark.parametrize("name", sorted(OWN))
def test_an_image_with_torch_installs_locks_with_hashes_or_torch_from_an_index_of_its_own(name, tmp_path):
    """Runs the Dockerfile's own shell with a pip that writes down its arguments."""
    text = (FOLDER / name / "Dockerfile").read_text().replace("\\\n", "")
    assert f"COPY requirements.torch.lock {OWN[name]} ./" in text
    (command,) = re.findall(r"^RUN (python -m venv /opt/venv .*)$", text, re.MULTILINE)
    (tmp_path / "pip").write_text(f'#!/bin/sh\n[ "$1" = check ] || echo "$@" >> {tmp_path}/log\n')
    (tmp_path / "pip").chmod(0o755)
    command = command.replace("python -m venv /opt/venv", "true").replace("/opt/venv/bin/pip", str(tmp_path / "pip"))
    for index in ("", "https://torch.test/cpu"):
        subprocess.run(["sh", "-ec", command], cwd=ROOT, env={**os.environ, "TORCH_INDEX": index}, check=True)
    torch, own = f"torch=={pinned('requirements.torch.lock')['torch']}", Path(OWN[name]).name
    assert (tmp_path / "log").read_text().replace("--require-hashes ", "").splitlines() == [
        f"install --no-cache-dir -r requirements.torch.lock -r {own}",
        f"install --no-cache-dir --index-url https://torch.test/cpu {torch}",
        f"install --no-cache-dir -r {own}",
    ]


def test_the_bake_file_builds_every_image_on_its_base_labelled_and_with_an_sbom():
    text = (FOLDER / "docker-bake.hcl").read_text()
    targets = dict(re.findall(r'^target "([\w-]+)" \{\n(.*?)^\}', text, re.MULTILINE | re.DOTALL))
    assert sorted(name for name in targets if not name.startswith("_")) == NAMES
    assert sorted(json.loads(re.search(r'^group "default" \{ targets = (.*) \}', text, re.MULTILINE)[1])) == NAMES
    assert 'revision" = COMMIT' in targets["_common"] and '"type=sbom"' in targets["_common"]
    both = {name for name, text in targets.items() if '["linux/arm64", "linux/amd64"]' in text}
    assert both == {"launcher", "_npu"}, "what runs on Ascend hosts"
    given = json.loads((FOLDER / "bases.json").read_text())["variable"]
    for name in NAMES:
        (parent,) = re.findall(r'inherits += \["(\w+)"\]', targets[name])
        assert 'inherits = ["_common"]' in re.sub(" +", " ", targets[parent]) and f'"images/{name}/Dockerfile"' in targets[name]
        assert re.search(r":\$\{COMMIT\}", targets[name])
        for argument, base in pinned_bases(name).items():
            assert f"{argument} = {argument}" in targets[parent] and given[argument]["default"] == base


@pytest.mark.parametrize("name", ["launcher", "mlflow", "train-cpu"])
def test_an_image_with_packages_of_its_own_installs_a_lock_with_hashes(name):
    folder, everything = FOLDER / name, pinned("requirements.lock")
    blocks = re.split(r"^(?=[A-Za-z0-9])", (folder / "requirements.lock").read_text(), flags=re.MULTILINE)[1:]
    assert all(re.match(r"[\w.-]+(\[[^]]*\])?==\S+.*\\\n +--hash=sha256:[0-9a-f]{64}", block) for block in blocks)
    locked = pinned(f"images/{name}/requirements.lock")
    for line in (folder / "requirements.txt").read_text().splitlines():
        package, _, version = line.partition("==")
        assert package == "torch" or locked[canonicalize_name(package)] == (version or everything[package]), f"{line}: make lock"
    of_torch = set(pinned("requirements.torch.lock")) if name == "train-cpu" else set()
    assert packages(folder / "requirements.txt") <= set(locked) | of_torch
    assert {package: version for package, version in locked.items() if everything.get(package, version) != version} == {}
    assert "pip install --no-cache-dir --require-hashes" in (folder / "Dockerfile").read_text()


@pytest.mark.parametrize("name", ["train-npu", "serve-npu"])
@pytest.mark.parametrize("index", ["", "https://torch.test/cpu"])
def test_npu_images_install_a_lock_with_hashes_that_accepts_the_torch_of_another_index(name, index, tmp_path):
    """Runs the Dockerfile's own shell with a Python that downloads a small file and writes down its arguments."""
    text = (FOLDER / name / "Dockerfile").read_text().replace("\\\n", "")
    (command,) = re.findall(r"^RUN (if .*)$", text, re.MULTILINE)
    for file in ("requirements.txt", "requirements.lock"):
        (tmp_path / file).write_bytes((FOLDER / "train-npu" / file).read_bytes())
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/log\n[ "$3" != download ] || {{ mkdir torch && printf wheel > torch/torch-2.9.0.whl; }}\n')
    python.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    environment = {"PATH": path, "PIP_EXTRA_INDEX_URL": index}
    subprocess.run(["bash", "-o", "pipefail", "-c", command], cwd=tmp_path, env=environment, check=True)
    download = ["-m pip download --no-cache-dir --no-deps --dest torch torch==2.9.0"] if index else []
    install = "-m pip install --no-cache-dir --require-hashes --no-deps --target /opt/packages -r requirements.lock"
    assert (tmp_path / "log").read_text().splitlines() == [*download, install]
    before, after = ((folder / "requirements.lock").read_text() for folder in (FOLDER / "train-npu", tmp_path))
    own = f"    --hash=sha256:{hashlib.sha256(b'wheel').hexdigest()} \\\n" if index else ""
    assert after == before.replace("torch==2.9.0 \\\n", f"torch==2.9.0 \\\n{own}")


def test_the_lock_of_npu_images_has_what_they_name_and_all_that_it_requires():
    locked = pinned("images/train-npu/requirements.lock")
    for line in (FOLDER / "train-npu" / "requirements.txt").read_text().splitlines():
        package, version = line.split("==")
        assert locked[canonicalize_name(package)] == version, f"{line}: make lock"
    assert not [name for name in locked if name.startswith(("nvidia-", "cuda-", "triton", "kfp", "protobuf"))]


def test_pinned_packages_of_the_registry_s_image_are_those_of_the_tests():
    lock = pinned("requirements.lock")
    for line in (FOLDER / "mlflow" / "requirements.txt").read_text().splitlines():
        name, version = line.split("==")
        assert lock[name] == version
