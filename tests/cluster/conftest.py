"""One control plane for the tests of a process; they use namespaces of their own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import build, controllers, kueues
from tests.cluster.control_plane import ControlPlane


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says by version what the tests ran against."""
    found = build.find()
    terminalreporter.write_line(f"cluster: {build.versions(found)}" if found else f"cluster: none was there: {build.HOW}")


@pytest.fixture(scope="session")
def assets() -> Path:
    """The directory with etcd and kube-apiserver; skips where there is none."""
    found = build.find()
    if found is None:
        pytest.skip(f"no Kubernetes API server: {build.HOW}")
    return found


@pytest.fixture(scope="session")
def cluster(assets: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A real API server for many tests: each uses a namespace of its own (`cluster.namespace`)."""
    with ControlPlane(assets, tmp_path_factory.mktemp("kubernetes")) as plane:
        yield plane


@pytest.fixture(scope="session")
def trainer(cluster: ControlPlane) -> ControlPlane:
    """The same API server with the controllers of Kubernetes, JobSet and Trainer, a scheduler, and the fake node `cpu-1`."""
    if lacking := controllers.missing(cluster.assets):
        pytest.skip(f"{cluster.assets} has no {', '.join(lacking)}: {build.HOW}")
    controllers.start(cluster)
    controllers.add_node(cluster, "cpu-1")
    return cluster


@pytest.fixture(scope="session")
def kueue(trainer: ControlPlane) -> ControlPlane:
    """The same API server with Kueue besides; it admits TrainJobs that name one of its queues, and ignores others."""
    if not (trainer.assets / "kueue").exists():
        pytest.skip(f"{trainer.assets} has no kueue: `python -m tests.cluster.build kueue` builds it")
    kueues.start(trainer)
    return trainer
