"""A registry of three promoted versions, made once; each test gets a copy of its state folder. The command line, in this process."""

import shutil
import sys
from pathlib import Path

import pytest
import yaml

from moworld_ops.components.platform.registry import ModelRegistry
from tests.moworld_ops.components.platform.registries import GATES, NAME, promote, register_version


@pytest.fixture(scope="session")
def promoted_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state folder with versions 1 to 3, promoted in this order, and version 4, a candidate that is a little worse."""
    folder = tmp_path_factory.mktemp("promoted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOWORLD_HOME", str(folder / "state"))
        for number in (1, 2, 3, 4):
            register_version(folder, number, psnr=20.0 - 0.2 * (number == 4), fps=20.0 + number)
        for number in "123":
            promote(ModelRegistry(), number)
    return folder / "state"


@pytest.fixture
def home(promoted_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that state folder, as MOWORLD_HOME."""
    shutil.copytree(promoted_home, tmp_path / "state")
    monkeypatch.setenv("MOWORLD_HOME", str(tmp_path / "state"))
    for name in ("MLFLOW_TRACKING_URI", "MOWORLD_REGISTRY_DATABASE", "MOWORLD_SIGNING_KEY", "MOWORLD_SIGNING_PUBLIC_KEY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "state"


@pytest.fixture
def moworld(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Runs the entry point in this process and returns exit status, stdout and stderr."""

    from moworld_ops.pipelines.cli.app import main

    def run(*arguments: object) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["moworld", "release", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return (ended.value.code or 0, *capsys.readouterr())

    return run


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    """A profile of the registry's model, whose gates are those that the ledger records."""
    values = yaml.safe_load(Path("moworld_ops/pipelines/profiles/test.yaml").read_text())
    values |= {"registry": {"name": NAME}, "gates": [gate.model_dump(exclude_defaults=True) for gate in GATES]}
    (tmp_path / "profile.yaml").write_text(yaml.safe_dump(values))
    return tmp_path / "profile.yaml"
