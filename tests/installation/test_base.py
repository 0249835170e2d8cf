"""An environment with the base install only: made by `make`, it plays, and says in one line what other commands need."""

import hashlib
import http.server
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.installation.environments import call, clone

pytestmark = pytest.mark.slow
WALK = """
import gymnasium
world = gymnasium.make("moworld.inference.environment:MoWorld-v0", model="models/pocket-long")
frames, _ = world.reset(seed=0)
frames, *_ = world.step(world.action_space.sample())
print(frames.shape, frames.dtype)
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = clone(tmp_path_factory.mktemp("base"))
    call("make", ".venv/base", cwd=folder)
    return folder


def test_nothing_but_the_base_is_installed(base):
    listed = call(base / ".venv/bin/python", "-m", "pip", "list", "--format=freeze", cwd=base).stdout
    for package in ("kfp", "mlflow", "dvc", "great_expectations", "transformers", "pycolmap", "vizdoom", "opencv-python-headless", "scipy"):
        assert f"\n{package}==" not in listed
    assert "torch==2.13.0" in listed


def test_a_walk_is_rendered_to_a_video(base, tmp_path):
    picture = "models/pocket-long/pictures/0-e4m7.png"
    call(base / ".venv/bin/moworld", "rollout", "--image", picture, "--actions", "w*12", "--out", tmp_path / "v.mp4", cwd=base)
    assert (tmp_path / "v.mp4").stat().st_size > 1000


def test_the_gymnasium_environment_steps(base):
    done = call(base / ".venv/bin/python", "-c", WALK, cwd=base)
    assert done.stdout.strip().endswith("uint8")


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        (["run", "lifecycle", "--profile", "test"], "pipelines"),
        (["release", "list"], "registry"),
        (["data", "import", "video.mp4"], "pipelines"),
        (["compile", "all"], "pipelines"),
    ],
)
def test_a_command_of_an_extra_says_how_to_install_it(base, command, extra, tmp_path):
    (base / "video.mp4").touch()
    done = call(base / ".venv/bin/moworld", *command, cwd=base, status=2, MOWORLD_HOME=str(tmp_path))
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "pip install 'moworld-operations[" in done.stderr


def test_doctor_and_the_list_of_runs_work(base, tmp_path):
    call(base / ".venv/bin/moworld", "runs", "list", cwd=base, MOWORLD_HOME=str(tmp_path))
    done = call(base / ".venv/bin/moworld", "doctor", cwd=base, status=0, MOWORLD_HOME=str(tmp_path))
    assert "2.13.0" in done.stdout


@pytest.fixture
def index(tmp_path) -> Iterator[str]:
    """A package index on loopback with one package: a torch 2.13.0 of another build, which says so when imported."""
    folder = tmp_path / "index" / "torch"
    folder.mkdir(parents=True)
    wheel = folder / "torch-2.13.0+another-py3-none-any.whl"
    files = {
        "torch/__init__.py": "__version__ = '2.13.0+another'\n",
        "torch-2.13.0+another.dist-info/METADATA": "Metadata-Version: 2.1\nName: torch\nVersion: 2.13.0+another\n",
        "torch-2.13.0+another.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files["torch-2.13.0+another.dist-info/RECORD"] = "".join(f"{name},,\n" for name in files)
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    (folder / "index.html").write_text(f'<a href="{wheel.name.replace("+", "%2B")}#sha256={digest}">{wheel.name}</a>')
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(folder.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.mark.parametrize("installer", ["uv", "pip"])
def test_another_index_gives_torch_and_the_lock_the_rest(index, installer, tmp_path):
    folder = clone(tmp_path / "clone")
    call("make", ".venv/base", cwd=folder, TORCH_INDEX=index, INSTALLER=installer)
    python = folder / ".venv/bin/python"
    assert call(python, "-c", "import torch; print(torch.__version__)", cwd=folder).stdout.strip() == "2.13.0+another"
    listed = call(python, "-m", "pip", "list", "--format=freeze", cwd=folder).stdout
    assert "diffusers==0.42.1" in listed and "nvidia" not in listed
