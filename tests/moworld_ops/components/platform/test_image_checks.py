"""Looks for an image on nodes, and in a registry on loopback that answers as the distribution specification requires."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from moworld_ops.components.platform.image_checks import presence, split
from moworld_ops.components.platform.preflight import Requirements, checks
from tests.cluster import Cluster, running

DIGEST = f"sha256:{'1' * 64}"


class Registry(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        held = self.path.startswith("/v2/me/python-data/manifests/") and "manifest" in self.headers["Accept"]
        self.send_response(200 if held else 401 if "private" in self.path else 404)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def registry():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Registry)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def node(*names: str) -> dict:
    return {"metadata": {"name": "n"}, "status": {"images": [{"names": list(names)}]}}


def test_nodes_come_first_then_the_registry(registry):
    assert presence("x.example/me/a:v1", [node("x.example/me/a:v1"), node()]) == ("on 1 of 2 nodes", True)
    assert presence(f"{registry}/me/python-data:v1", [node()]) == (f"in {registry}", True)
    assert presence(f"{registry}/me/python-data@{DIGEST}", []) == (f"in {registry}", True)
    assert presence(f"{registry}/me/other:v1", [])[1] is False
    assert presence(f"{registry}/private/other:v1", [])[1] is None
    assert presence("127.0.0.1:1/me/other:v1", [])[1] is None


def test_the_lock_decides_only_if_neither_nodes_nor_registry_answer(registry, tmp_path, monkeypatch):
    silent = "127.0.0.1:1/me/a:v1"
    with running(Cluster()) as cluster:
        monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig(tmp_path / "kubeconfig")))
        cluster.put("/api/v1/nodes/n", node("here.example/me/a:v1"))
        for reference, unpublished, passed in (
            ("here.example/me/a:v1", True, True), (f"{registry}/me/python-data:v1", True, True), (f"{registry}/me/a:v1", False, False),
            (silent, True, False), (silent, False, True),
        ):  # fmt: skip
            (row,) = checks(Requirements(images={"data": reference}, unpublished_images=["data"] if unpublished else []))
            assert (row["name"], row["passed"]) == ("image data", passed), row


def test_the_parts_of_a_reference():
    assert split("reg.example:5000/me/a:v1") == ("reg.example:5000", "me/a", "v1")
    assert split(f"ghcr.io/me/a@{DIGEST}") == ("ghcr.io", "me/a", DIGEST)
    assert split("python:3.11") == ("registry-1.docker.io", "library/python", "3.11")
