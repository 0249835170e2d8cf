"""Digests of base images, from a registry on loopback that requires a token and can misbehave."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest

from moworld.errors import InputError
from moworld_ops.components.platform import bases
from moworld_ops.components.platform.bases import INDEXES, MANIFESTS, parse_reference, pin, resolve
from tests.cluster import running


def index(*platforms: str) -> bytes:
    """Returns an OCI index of several platforms with the attestation entry that builders add."""
    each = [
        {
            "mediaType": MANIFESTS[0],
            "digest": "sha256:" + "1" * 64,
            "size": 2,
            "platform": dict(zip(("os", "architecture"), one.split("/"), strict=True)),
        }
        for one in (*platforms, "unknown/unknown")
    ]
    return json.dumps({"schemaVersion": 2, "mediaType": INDEXES[0], "manifests": each}).encode()


def digest_of(body: bytes) -> str:
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


class Registry(ThreadingHTTPServer):
    """Stores manifests by repository and tag; rejects requests without a token for the repository."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.tags: dict[tuple[str, str], bytes] = {}
        self.trouble = ""
        self.silent = threading.Event()
        self.requests: list[tuple[str, str]] = []

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    def server_close(self) -> None:
        self.silent.set()
        super().server_close()


class Handler(BaseHTTPRequestHandler):
    server: Registry

    def do_HEAD(self) -> None:
        registry, url = self.server, urlsplit(self.path)
        registry.requests.append((self.command, url.path))
        if url.path == "/token":
            query = parse_qs(url.query)
            if registry.trouble == "no token" or query["service"] != ["registry.test"]:
                return self.answer(403, b"")
            return self.answer(200, json.dumps({"token": f"for {query['scope'][0]}"}).encode())
        repository, _, wanted = url.path.removeprefix("/v2/").rpartition("/manifests/")
        scope = f"repository:{repository}:pull"
        if registry.trouble == "silence":
            registry.silent.wait(30)
            return None
        if self.headers["Authorization"] != f"Bearer for {scope}" or registry.trouble == "never enough":
            realm = {"no realm": "", "foreign realm": "http://example.invalid/token"}.get(registry.trouble, f"http://{registry.host}/token")
            return self.answer(401, b"{}", {"WWW-Authenticate": f'Bearer realm="{realm}",service="registry.test",scope="{scope}"'})
        if not {*INDEXES, *MANIFESTS} <= {one.strip() for one in self.headers["Accept"].split(",")}:
            return self.answer(406, b"{}")
        found = {body for (where, tag), body in registry.tags.items() if where == repository and wanted in (tag, digest_of(body))}
        if not found:
            return self.answer(429 if registry.trouble == "too many" else 404, b'{"errors": [{"code": "MANIFEST_UNKNOWN"}]}')
        (body,) = found
        named = {"no digest": {}, "odd digest": {"Docker-Content-Digest": "sha256:12"}}.get(
            registry.trouble, {"Docker-Content-Digest": digest_of(body)}
        )
        if self.command == "GET" and registry.trouble == "other bytes":
            body = body.replace(b"amd64", b"arm64")
        return self.answer(200, body, named)

    do_GET = do_HEAD

    def answer(self, code: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def registry():
    with running(Registry()) as server:
        server.tags["library/python", "3.11"] = index("linux/amd64", "linux/arm64")
        yield server


@pytest.fixture
def folder(registry, tmp_path):
    """Returns a folder with two images on one base and one on another."""
    registry.tags["vendor/cann", "9.0"] = json.dumps({"schemaVersion": 2, "mediaType": MANIFESTS[0]}).encode()
    for name, argument, base in (
        ("a", "PYTHON", "library/python:3.11"),
        ("b", "PYTHON", "library/python:3.11"),
        ("c", "CANN", "vendor/cann:9.0"),
    ):
        (tmp_path / name).mkdir()
        text = f"# why\nARG {argument}={registry.host}/{base}\nFROM ${{{argument}}} AS build\nARG LATER=x\nFROM ${{{argument}}}\n"
        (tmp_path / name / "Dockerfile").write_text(text)
    return tmp_path


def values(folder) -> dict[str, str]:
    return {key: one["default"] for key, one in json.loads((folder / "bases.json").read_text())["variable"].items()}


def test_pinning_writes_the_digest_of_every_base_to_bases_json(registry, folder):
    said = []
    found = pin(folder, said.append)
    for argument, (repository, tag) in {"PYTHON": ("library/python", "3.11"), "CANN": ("vendor/cann", "9.0")}.items():
        reference = f"{registry.host}/{repository}:{tag}"
        assert found[reference] == digest_of(registry.tags[repository, tag])
        assert values(folder)[argument] == f"{reference}@{found[reference]}"
    assert len(said) == 2 and "linux/amd64, linux/arm64" in said[0] and "unknown" not in said[0] and "one platform" in said[1]
    paths = [path for _, path in registry.requests]
    assert paths.count("/v2/library/python/manifests/3.11") == 2  # a challenge and a response: one request per base
    assert bases.pinned_bases("a", folder) == bases.pinned_bases("b", folder) == {"PYTHON": values(folder)["PYTHON"]}


def test_a_pin_is_kept_until_its_tag_changes(registry, folder):
    pin(folder, lambda line: None)
    before = values(folder)
    bases.write_bases(folder)
    assert values(folder) == before
    path = folder / "c" / "Dockerfile"
    path.write_text(path.read_text().replace("cann:9.0", "cann:9.1"))
    bases.write_bases(folder)
    assert values(folder) == {**before, "CANN": f"{registry.host}/vendor/cann:9.1"}


def test_one_argument_has_one_base(folder):
    path = folder / "b" / "Dockerfile"
    path.write_text(path.read_text().replace("python:3.11", "python:3.12"))
    with pytest.raises(InputError, match="one base for one argument"):
        bases.write_bases(folder)


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        ("absent", "404 Not Found"),
        ("too many", "429 Too Many Requests"),
        ("no token", "403 Forbidden, expected a token"),
        ("never enough", "401 Unauthorized"),
        ("no realm", "Bearer with a realm"),
        ("foreign realm", "Bearer with a realm"),
        ("no digest", "found nothing, expected sha256"),
        ("odd digest", "found sha256:12, expected sha256"),
        ("other bytes", "which the registry named"),
        ("silence", "ReadTimeout"),
        ("away", "ConnectionError"),
        ("no JSON", "found b'<html>'"),
    ],
)
def test_a_registry_that_misbehaves_is_one_line_and_nothing_is_written(registry, folder, monkeypatch, trouble, words):
    pin(folder, lambda line: None)
    before = (folder / "bases.json").read_bytes()
    registry.trouble = trouble
    if trouble in ("absent", "too many"):
        del registry.tags["library/python", "3.11"]
    elif trouble == "no JSON":
        registry.tags["library/python", "3.11"] = b"<html>"
    elif trouble == "silence":
        monkeypatch.setattr(bases, "TIMEOUT_SECONDS", (0.5, 0.2))
    elif trouble == "away":
        registry.shutdown()
        registry.server_close()
    with pytest.raises(InputError, match=words) as caught:
        pin(folder, lambda line: None)
    assert "\n" not in str(caught.value) and registry.host in str(caught.value)
    assert (folder / "bases.json").read_bytes() == before


def test_a_reference_is_parsed_as_docker_parses_it():
    assert parse_reference("python:3.11") == ("registry-1.docker.io", "library/python", "3.11")
    assert parse_reference("ascend/cann:9.0.1") == ("registry-1.docker.io", "ascend/cann", "9.0.1")
    assert parse_reference("docker.io/library/python:3.11") == ("registry-1.docker.io", "library/python", "3.11")
    assert parse_reference("quay.io/a/b/c:1") == ("quay.io", "a/b/c", "1") and parse_reference("localhost:5000/x:2") == ("localhost:5000", "x", "2")
    with pytest.raises(InputError, match="a tag"):
        resolve("localhost:5000/x")
