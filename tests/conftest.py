"""Every test has fixed seeds and its own state folder."""

import os
import random
import sys

import pytest

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys([os.getcwd(), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]))


@pytest.fixture(autouse=True)
def _isolated(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seeds the random generators of loaded modules, and keeps tests away from the developer's .moworld."""
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)
    if "MOWORLD_HOME" not in os.environ:
        monkeypatch.setenv("MOWORLD_HOME", str(tmp_path_factory.getbasetemp() / "moworld-home"))
