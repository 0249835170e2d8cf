"""The CPU images, built for real on a base of Debian's packages, and run hardened: not root, a root that is read-only, no capabilities, no network.

Minutes and gigabytes: marked `images`, run where buildah, podman and debootstrap are installed (`pytest -m images`).
"""

import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from urllib.parse import urlparse

import pytest

from components.platform.images import ROOT

TOOLS = ("buildah", "podman", "runc", "debootstrap")
pytestmark = [
    pytest.mark.images,
    pytest.mark.timeout(3000),
    pytest.mark.skipif(any(shutil.which(tool) is None for tool in TOOLS), reason=f"needs {', '.join(TOOLS)}"),
]
BASE = "docker.io/library/python:3.11-slim-bookworm"
HARDENED = [
    "--rm",
    "--network",
    "none",
    "--read-only",
    "--cap-drop",
    "all",
    "--security-opt",
    "no-new-privileges",
    "--tmpfs",
    "/tmp:rw,size=2g",
]
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
PYTHON = (
    "apt-get update -q && apt-get install -q -y --no-install-recommends python3.11 python3.11-venv python3-pip && "
    "ln -s /usr/bin/python3.11 /usr/local/bin/python && rm -f /usr/lib/python3.11/EXTERNALLY-MANAGED"
)


def call(*command: str | Path, **more) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, **more)
    assert done.returncode == 0, f"{command}: {done.stdout[-1500:]}{done.stderr[-1500:]}"
    return done.stdout


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The name that the Dockerfiles start from, as an image of Debian's own packages."""
    folder = tmp_path_factory.mktemp("base")
    (folder / "containers.conf").write_text(
        '[containers]\ndefault_ulimits = ["nofile=20000:20000","nproc=32768:32768"]\n[engine]\nruntime = "runc"\n'
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONTAINERS_CONF", str(folder / "containers.conf"))
        patch.setenv("DEBIAN_FRONTEND", "noninteractive")
        root = folder / "root"
        call("debootstrap", "--variant=minbase", "--include=ca-certificates", "bookworm", root)
        if CERTIFICATES.is_file():  # a machine behind a proxy has its own
            shutil.copyfile(CERTIFICATES, root / "etc/ssl/certs/ca-certificates.crt")
        call("chroot", root, "sh", "-c", PYTHON)
        with tarfile.open(folder / "root.tar", "w") as archive:
            archive.add(root, ".")
        call("podman", "import", folder / "root.tar", BASE)
        yield folder


def pip_settings(folder: Path) -> list[str]:
    """Mounts that give a build this machine's own pip settings, and the folders that they name."""
    listed = call(sys.executable, "-m", "pip", "config", "list")
    values = dict(line.split("=", 1) for line in listed.splitlines() if "=" in line)
    settings = {key.split(".", 1)[1]: value.strip("'") for key, value in values.items() if key.startswith("global.")}
    (folder / "pip.conf").write_text("[global]\n" + "".join(f"{key} = {value}\n" for key, value in settings.items()))
    words = [urlparse(word).path if word.startswith("file://") else word for value in settings.values() for word in value.split()]
    roots = {str(Path("/", *Path(word).parts[1:3])) for word in words if word.startswith("/") and Path(word).is_dir()}
    mounts = [f"{folder / 'pip.conf'}:/etc/pip.conf:ro", *(f"{root}:{root}:ro" for root in sorted(roots))]
    if CERTIFICATES.is_file():
        mounts.append(f"{CERTIFICATES}:{CERTIFICATES}:ro")
    return [part for mount in mounts for part in ("-v", mount)]


@pytest.fixture(scope="module", params=["mlflow", "data"])
def built(request, base):
    """(name, image) of an image, built from its own Dockerfile, unchanged."""
    context = base / f"context-{request.param}"
    context.mkdir()
    archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, capture_output=True, check=True).stdout
    subprocess.run(["tar", "-x", "-C", context], input=archive, check=True)
    image = f"localhost/moworld-{request.param}"
    call("buildah", "bud", "--isolation", "chroot", "--network", "host", "--pull-never", "--format", "docker", *pip_settings(base),
         "-f", context / "images" / request.param / "Dockerfile", "-t", image, context)  # fmt: skip
    yield request.param, image
    call("podman", "rmi", "-f", image)


def test_an_image_runs_hardened(built):
    name, image = built
    assert call("podman", "run", *HARDENED, "--entrypoint", "id", image, "-u").strip() == "1000"
    if name == "mlflow":
        assert "3.17.2" in call("podman", "run", *HARDENED, image, "--version")
        call("podman", "run", *HARDENED, "--entrypoint", "python", image, "-c", "import psycopg2, boto3")
        return
    environment = ["-e", "MOWORLD_HOME=/tmp/state", "-e", "HOME=/tmp"]
    compiled = call(
        "podman",
        "run",
        *HARDENED,
        *environment,
        image,
        "moworld",
        "compile",
        "pretrain",
        "--profile",
        "wan22-a14b",
        "--out",
        "/tmp/b",
        "--json",
    )
    assert json.loads(compiled)[0]["npu_tasks"]
    done = json.loads(call("podman", "run", *HARDENED, *environment, image, "moworld", "run", "data", "--profile", "test", "--json"))
    assert done["status"] == "done" and done["steps"]["cache_features"]["status"] == "done"
