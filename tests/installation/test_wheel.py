"""The built wheel: what is in it, and that it works outside a clone."""

import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.installation.environments import ROOT, call, clone

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """`python -m build` in a copy of the tracked files: first the source distribution, then the wheel from it."""
    folder = clone(tmp_path_factory.mktemp("build"))
    call(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", cwd=folder)
    (found,) = (folder / "dist").glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """An environment with the wheel, which sees the packages of this one but not this clone: returns its bin folder."""
    folder = tmp_path_factory.mktemp("installed")
    call(sys.executable, "-m", "venv", folder / "venv", cwd=folder)
    python = folder / "venv" / "bin" / "python"
    call(python, "-m", "pip", "install", "-q", "--no-index", "--no-deps", wheel, cwd=folder)
    site = call(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).stdout.strip()
    Path(site, "others.pth").write_text(sysconfig.get_path("purelib") + "\n")  # a path alone: its own .pth files are not read
    return folder / "venv" / "bin"


def test_the_wheel_holds_names_of_this_project_only(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {"moworld", "moworld_ops"} == {top for top in tops if not top.endswith(".dist-info")}
    assert not [name for name in names if name.endswith((".safetensors", ".pyc")) or "/tests/" in name]
    for part in ("moworld_ops/pipelines/profiles/pocket.yaml", "moworld_ops/data_contracts/clips.odcs.yaml", "moworld/inference/player/page.html"):
        assert part in names


def test_it_is_imported_from_the_wheel(installed, tmp_path):
    done = call(installed / "python", "-c", "import moworld, moworld_ops; print(moworld.__file__, moworld_ops.__file__)", cwd=tmp_path)
    assert str(ROOT) not in done.stdout and done.stdout.count("site-packages") == 2


@pytest.mark.parametrize("command", ["doctor", "runs list", "plan --profile wan22-a14b", "bench --help", "evaluate --help"])
def test_commands_work_outside_a_clone(installed, command, tmp_path):
    done = call(installed / "moworld", *command.split(), cwd=tmp_path, MOWORLD_HOME=str(tmp_path / "state"))
    assert done.stdout.strip() and "Traceback" not in done.stderr


def test_releases_without_a_registry_are_refused_outside_a_clone(installed, tmp_path):
    done = call(installed / "moworld", "release", "list", cwd=tmp_path, status=2, MOWORLD_HOME=str(tmp_path / "state"))
    assert "no registry" in done.stderr and not (tmp_path / "state").exists()


def test_pipelines_compile_outside_a_clone(installed, tmp_path):
    call(installed / "moworld", "compile", "all", "--profile", "wan22-a14b", "--out", "build", cwd=tmp_path)
    assert "@sha256:" in (tmp_path / "build" / "lifecycle.yaml").read_text()


def test_a_pipeline_runs_outside_a_clone_and_keeps_state_out_of_the_package(installed, tmp_path):
    before = sorted(path for path in installed.parent.rglob("*") if "__pycache__" not in path.parts)
    call(installed / "moworld", "run", "data", "--profile", "test", "--set", "data.game.workers=1", cwd=tmp_path)
    assert (tmp_path / ".moworld" / "runs").is_dir()
    assert sorted(path for path in installed.parent.rglob("*") if "__pycache__" not in path.parts) == before


def test_play_without_the_model_says_where_it_is(installed, tmp_path):
    done = call(installed / "moworld", "play", cwd=tmp_path, status=2)
    assert len(done.stderr.strip().splitlines()) == 1 and "pocket-long" in done.stderr, done.stderr
