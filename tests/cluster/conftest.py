"""One control plane for the tests of a process; they use namespaces of their own."""

from collections.abc import Iterator

import pytest

from tests.cluster import build
from tests.cluster.control_plane import ControlPlane


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A real API server; skips where there is none."""
    assets = build.find()
    if assets is None:
        pytest.skip(f"no Kubernetes API server: {build.HOW}")
    with ControlPlane(assets, tmp_path_factory.mktemp("kubernetes")) as plane:
        yield plane
