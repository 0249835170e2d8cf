"""The CPU images, built on a base of Debian's packages and run hardened: no root user, read-only root, no capabilities, no network.

Pipelines `data` and `pretrain` run in them as compiled for a cluster, through kfp's DockerRunner and podman's API socket. This takes minutes
and gigabytes: marked `images`, and run if buildah, podman and debootstrap are installed (`pytest -m images`). TORCH_INDEX is passed on.
"""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import threading
import warnings
from ast import literal_eval
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pytest

from moworld.data.features import FeatureStore
from moworld.model.world import WorldModel
from moworld_ops.components.platform.images import LOCK, image
from moworld_ops.components.platform.source import ROOT
from moworld_ops.pipelines import catalog, profile
from moworld_ops.pipelines.placement import Cluster, requirements_of
from tests.cluster import Cluster as Server
from tests.cluster import Script, running, wait_for

TOOLS = ("buildah", "podman", "runc", "debootstrap")
pytestmark = [
    pytest.mark.images,
    pytest.mark.timeout(5400),
    pytest.mark.skipif(any(shutil.which(tool) is None for tool in TOOLS), reason=f"needs {', '.join(TOOLS)}"),
]
BASE = "docker.io/library/python:3.11-slim-bookworm"
HARDENED = ["--rm", "--network", "none", "--read-only", "--cap-drop", "all", "--security-opt", "no-new-privileges", "--tmpfs", "/tmp:rw,size=2g"]
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
PYTHON = (
    "apt-get update -q && apt-get install -q -y --no-install-recommends python3.11 python3.11-venv python3-pip && "
    "ln -s /usr/bin/python3.11 /usr/local/bin/python && rm -f /usr/lib/python3.11/EXTERNALLY-MANAGED"
)


# Whether our modules and a package's are compiled in the image
COMPILED = """
import importlib.util as u, os
print(all(os.path.exists(u.cache_from_source(u.find_spec(name).origin)) for name in ("moworld.files", "moworld_ops.components.platform.launch", "pydantic")))
"""


def call(*command: str | Path, **more) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, **more)
    assert done.returncode == 0, f"{command}: {done.stdout[-1500:]}{done.stderr[-1500:]}"
    return done.stdout


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Imports an image of Debian's packages under the name of the Dockerfiles' base."""
    folder = tmp_path_factory.mktemp("base")
    (folder / "containers.conf").write_text(
        '[containers]\ndefault_ulimits = ["nofile=20000:20000","nproc=32768:32768"]\n[engine]\nruntime = "runc"\n'
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONTAINERS_CONF", str(folder / "containers.conf"))
        patch.setenv("DEBIAN_FRONTEND", "noninteractive")
        root = folder / "root"
        call("debootstrap", "--variant=minbase", "--include=ca-certificates", "bookworm", root)
        if CERTIFICATES.is_file():  # a machine behind a proxy may have its own
            shutil.copyfile(CERTIFICATES, root / "etc/ssl/certs/ca-certificates.crt")
        call("chroot", root, "sh", "-c", PYTHON)
        with tarfile.open(folder / "root.tar", "w") as archive:
            archive.add(root, ".")
        call("podman", "import", folder / "root.tar", BASE)
        yield folder


def pip_settings(folder: Path) -> list[str]:
    """Returns mounts that give a build this machine's pip settings and the folders that they name."""
    listed = call(sys.executable if find_spec("pip") else "python3", "-m", "pip", "config", "list")  # uv makes environments without pip
    values = dict(line.split("=", 1) for line in listed.splitlines() if "=" in line)
    settings = {key.split(".", 1)[1]: value.strip("'") for key, value in values.items() if key.startswith("global.")}
    (folder / "pip.conf").write_text("[global]\n" + "".join(f"{key} = {value}\n" for key, value in settings.items()))
    words = [urlparse(word).path if word.startswith("file://") else word for value in settings.values() for word in value.split()]
    places = [Path(word) for word in words if word.startswith("/")] + [CERTIFICATES]
    roots = {path if path.is_file() else Path("/", *path.parts[1:3]) for path in places if path.exists()}
    mounts = [f"{folder / 'pip.conf'}:/etc/pip.conf:ro", *(f"{root}:{root}:ro" for root in sorted(roots))]
    return [part for mount in mounts for part in ("-v", mount)]


@pytest.fixture(scope="module")
def build(base):
    """Builds an image from its unchanged Dockerfile at its first use; returns its local name."""
    context, built = base / "context", dict[str, str]()
    context.mkdir()
    archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, capture_output=True, check=True).stdout
    subprocess.run(["tar", "-x", "-C", context], input=archive, check=True)

    def made(name: str) -> str:
        if name not in built:
            tag = f"localhost/python-{name}:built"
            torch = ["--build-arg", f"TORCH_INDEX={os.environ['TORCH_INDEX']}"] if os.environ.get("TORCH_INDEX") else []
            call("buildah", "bud", *torch, "--isolation", "chroot", "--network", "host", "--pull-never", "--format", "docker", *pip_settings(base),
                 "-f", context / "images" / name / "Dockerfile", "-t", tag, context)  # fmt: skip
            built[name] = tag
        return built[name]

    yield made
    for tag in built.values():
        call("podman", "rmi", "-f", tag)


def hardened(tag: str, *command: str) -> str:
    return call(
        "podman", "run", *HARDENED, "-e", "MOWORLD_HOME=/tmp/state", "-e", "HOME=/tmp", "--entrypoint", command[0], tag, *command[1:]
    )


@pytest.mark.parametrize("name", ["mlflow", "launcher", "train-cpu", "data", "pocket"])
def test_an_image_runs_hardened(build, name):
    tag = build(name)
    assert hardened(tag, "id", "-u").strip() == "1000"
    if name != "mlflow":
        assert hardened(tag, "python", "-c", COMPILED).strip() == "True"
    missing = "import importlib.util, sys; print([name for name in sys.argv[1:] if importlib.util.find_spec(name) is None])"
    if name == "mlflow":
        assert "3.17.2" in hardened(tag, "mlflow", "--version")
        hardened(tag, "python", "-c", "import psycopg2, boto3")
    elif name == "launcher":
        assert literal_eval(hardened(tag, "python", "-c", missing, "torch", "mlflow", "cv2", "kfp")) == ["torch", "mlflow", "cv2"]
    elif name == "train-cpu":
        assert literal_eval(hardened(tag, "python", "-c", missing, "torch", "kfp", "kubernetes")) == ["kfp", "kubernetes"]
        assert "usage: torchrun" in hardened(tag, "torchrun", "--help")
    elif name == "pocket":
        ran = json.loads(hardened(tag, "moworld", "run", "lifecycle", "--profile", "test", "--json"))
        assert ran["status"] == "done" and ran["model"]["alias"] == "champion"
    else:
        compiled = hardened(tag, "moworld", "compile", "pretrain", "--profile", "wan22-a14b", "--out", "/tmp/b", "--json")
        assert json.loads(compiled)[0]["trainjobs"]


@pytest.fixture(scope="module")
def shared(base):
    """Gives a folder that every container mounts at the same path, as tasks and ranks mount the claim; only user 1000 can write."""
    folder, socket = base / "shared", base / "podman.sock"
    folder.mkdir()
    os.chown(folder, 1000, 1000)
    with (
        subprocess.Popen(["podman", "system", "service", "--time=0", f"unix://{socket}"]) as service,
        pytest.MonkeyPatch.context() as patch,
    ):
        wait_for(socket.exists)
        patch.setenv("DOCKER_HOST", f"unix://{socket}")
        yield folder
        service.terminate()


def run_in_images(graph: Any, values: dict[str, str], shared: Path, build: Any, network: str, environment: dict[str, str]) -> Path:
    """Runs a pipeline compiled for a cluster by kfp's DockerRunner, each task hardened; returns the folder of its tasks.

    Of what was compiled only this changes: an image's digest becomes its name here, and what a kubelet would add to the environment is added.
    """
    from kfp import local

    names = {image(name): name for name in json.loads(LOCK.read_text())}
    executors = graph.pipeline_spec.deployment_spec["executors"]
    for label in executors:
        if "container" in executors[label]:
            container = executors[label]["container"]
            container["image"] = build(names[container["image"]])
            container["env"].extend({"name": key, "value": value} for key, value in {"HOME": "/tmp", **environment}.items())
    before = set(shared.glob(f"{graph.name}-*"))
    runner = local.DockerRunner(user="1000:1000", read_only=True, cap_drop=["all"], security_opt=["no-new-privileges"], network_mode=network,
                                tmpfs={"/tmp": "rw,size=2g"}, working_dir="/tmp")  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # kfp warns of settings that have no effect locally
        local.init(runner, str(shared), enable_caching=False)
        graph(**values)
    (folder,) = set(shared.glob(f"{graph.name}-*")) - before
    return folder


def on_a_cluster(shared: Path) -> Any:
    """Returns profile `test` with one training stage and the pools of `pocket` on a cluster without NPUs."""
    pools = profile.load("pocket")[1].resources.model_dump(include={"pools", "steps"}, mode="json")
    stage = {"frames": 13, "batch": 1, "steps": 2, "optimizer": {"lr": 1e-3}}
    given = {
        "resources.pools": pools["pools"],
        "resources.steps": pools["steps"],
        "resources.mount": str(shared / "volume"),
        "curriculum": [stage],
    }
    return profile.load("test", [f"{key}={json.dumps(value)}" for key, value in given.items()])[1]


@pytest.fixture(scope="module")
def data(build, shared):
    """Returns the output folder of pipeline `data`, run in the data image without a network."""
    settings = on_a_cluster(shared)
    graph = catalog.build("data", settings, Cluster(settings.resources))
    values = catalog.arguments("data", "test", settings, "r1", local=False)
    return run_in_images(graph, values, shared, build, "none", {"MOWORLD_RUN": "r1", "MOWORLD_NAMESPACE": "moworld"})


def test_the_data_pipeline_runs_through_the_docker_runner_in_its_image(data, shared):
    # kfp counts a container as successful if it is gone before its status is read, so only outputs are compared
    ended = {path.parent.name for path in data.glob("*/executor_output.json")}
    assert ended == {"collect", "complete-geometry", "check-quality", "annotate", "train-codec", "cache-features"}
    store = FeatureStore(str(data / "cache-features" / "features"))
    assert store.of_split("train")
    revision = json.loads((data / "cache-features" / "features" / "revision.json").read_text())["revision"]
    assert (shared / "volume" / "home" / "registry" / "features.dvc").is_file() and len(revision) == 40
    assert {path.stat().st_uid for path in data.rglob("*")} == {1000}


def test_training_runs_as_a_trainjob_started_by_the_launcher_s_image_in_the_ranks_image(build, data, shared):
    """Pipeline `pretrain` as compiled: preflight and launcher run in their image, against an API server that starts the ranks' container."""
    settings = on_a_cluster(shared)
    wanted = requirements_of(settings) | {"images": {}, "unpublished_images": [], "unpinned_bases": []}
    ranks_image = build("train-cpu")

    states, made = dict[str, str](), list[str]()

    def ranks(job: dict) -> None:
        trainer = job["spec"]["trainer"]
        variables = {
            "HOME": "/tmp",
            "PET_NPROC_PER_NODE": trainer["numProcPerNode"],
            "PET_NNODES": trainer["numNodes"],
        }  # as Trainer sets them
        environment = [part for key, value in variables.items() for part in ("-e", f"{key}={value}")]
        command = ["podman", "run", *HARDENED, "--user", "1000:1000", *environment, "-v", f"{shared}:{shared}", "-w", "/tmp",
                   "--entrypoint", trainer["command"][0], ranks_image, *trainer["command"][1:]]  # fmt: skip
        states[job["metadata"]["name"]] = "Failed" if subprocess.run(command, check=False).returncode else "Complete"
        made.append(trainer["image"])

    with running(Server()) as cluster:
        cluster.on_create = lambda job: threading.Thread(target=ranks, args=(job,)).start()
        cluster.script = lambda job: Script(states.get(job["metadata"]["name"], "Running"))
        claim = {"spec": {"accessModes": ["ReadWriteMany"]}, "status": {"phase": "Bound"}}
        cluster.put("/api/v1/namespaces/moworld/persistentvolumeclaims/moworld-work", {"metadata": {"name": "moworld-work"}, **claim})
        runtime = "/apis/trainer.kubeflow.org/v1alpha1/clustertrainingruntimes/moworld-train-cpu"
        cluster.put(runtime, {"metadata": {"name": "moworld-train-cpu"}})
        cluster.kubeconfig(shared / "kubeconfig")
        graph = catalog.build("pretrain", settings, Cluster(settings.resources, wanted))
        values = {"seed": "3", "run": "r2", "features": str(data / "cache-features" / "features")}
        environment = {"MOWORLD_RUN": "r2", "MOWORLD_NAMESPACE": "moworld", "KUBECONFIG": str(shared / "kubeconfig")}
        folder = run_in_images(graph, values, shared, build, "host", environment)
        assert [name for name, _ in cluster.made] == ["m-r2-train-curriculum-1-0"] and cluster.jobs() == {}
    assert made == [image("train-cpu")]
    assert {path.parent.name for path in folder.glob("*/executor_output.json")} == {"preflight", "train-curriculum"}
    model = folder / "train-curriculum" / "model"
    assert WorldModel.load(str(model)).config.model == settings.model and json.loads((model / "losses.json").read_text())
