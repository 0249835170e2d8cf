"""Files of a registered version, read where they are: in a folder, in an object store (fsspec), or through MLflow's artifact proxy."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol
from urllib.parse import quote

from moworld.errors import InputError, IntegrityError
from moworld.extras import require

CONNECT_SECONDS, READ_SECONDS = 5.0, 60.0
PROXY = "api/2.0/mlflow-artifacts/artifacts"


class Artifacts(Protocol):
    """A folder of files by relative name."""

    def names(self) -> list[str]:
        """Returns the names of all files, sorted; [] for a missing folder."""

    def open(self, name: str) -> Any:
        """Returns a context with the stream of a file. Raises IntegrityError if it is missing."""

    def remove(self) -> None:
        """Removes all files."""

    def at(self, folder: str) -> "Artifacts":
        """Returns the artifacts of a folder inside."""


class LocalArtifacts:
    """Artifacts in a folder of this machine."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def names(self) -> list[str]:
        return sorted(path.relative_to(self.root).as_posix() for path in self.root.rglob("*") if path.is_file())

    def open(self, name: str) -> IO[bytes]:
        try:
            return (self.root / name).open("rb")
        except OSError as error:
            raise missing(self.root / name, error.strerror or str(error)) from None

    def remove(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)

    def at(self, folder: str) -> "LocalArtifacts":
        return LocalArtifacts(self.root / folder)


class StoredArtifacts:
    """Artifacts under any URI that fsspec opens."""

    def __init__(self, uri: str) -> None:
        import fsspec

        self.uri = uri.rstrip("/")
        self.system, self.root = fsspec.core.url_to_fs(self.uri)

    def names(self) -> list[str]:
        try:
            return sorted(str(path)[len(self.root) :].lstrip("/") for path in self.system.find(self.root))
        except FileNotFoundError:
            return []
        except Exception as error:  # each store has errors of its own
            raise InputError(self.uri, "", f"{type(error).__name__}: {error}", "a readable store", "check address and credentials") from None

    def open(self, name: str) -> Any:
        try:
            return self.system.open(f"{self.root}/{name}", "rb")
        except FileNotFoundError as error:
            raise missing(f"{self.uri}/{name}", str(error)) from None

    def remove(self) -> None:
        self.system.rm(self.root, recursive=True)

    def at(self, folder: str) -> "StoredArtifacts":
        return StoredArtifacts(f"{self.uri}/{folder}")


class ProxiedArtifacts:
    """Artifacts behind MLflow's proxy (`--serve-artifacts`), by the path of an mlflow-artifacts: URI."""

    def __init__(self, tracking: str, path: str) -> None:
        self.tracking, self.path = tracking.rstrip("/"), path.strip("/")

    def names(self) -> list[str]:
        return sorted(self._walk(""))

    def _walk(self, folder: str) -> Iterator[str]:
        where = f"{self.path}/{folder}".rstrip("/")
        answer = request("GET", f"{self.tracking}/{PROXY}?path={quote(where)}")
        for entry in [] if answer.status_code == 404 else answer.json().get("files", []):
            name = f"{folder}/{entry['path'].rpartition('/')[2]}".lstrip("/")
            if entry.get("is_dir"):
                yield from self._walk(name)
            else:
                yield name

    @contextmanager
    def open(self, name: str) -> Iterator[Any]:
        url = f"{self.tracking}/{PROXY}/{quote(f'{self.path}/{name}')}"
        answer = request("GET", url, stream=True)
        with answer:
            if answer.status_code != 200:
                raise missing(url, f"status {answer.status_code}")
            yield _Stream(answer)

    def remove(self) -> None:
        request("DELETE", f"{self.tracking}/{PROXY}/{quote(self.path)}")

    def at(self, folder: str) -> "ProxiedArtifacts":
        return ProxiedArtifacts(self.tracking, f"{self.path}/{folder}")


class _Stream:
    """Reads a streamed answer; requests' raw stream would not decode a content encoding."""

    def __init__(self, answer: Any) -> None:
        self.parts, self.left = answer.iter_content(1 << 20), b""

    def read(self, size: int = -1) -> bytes:
        data, parts = self.left, []
        length = len(data)
        while (size < 0 or length < size) and (part := next(self.parts, b"")):
            parts.append(part)
            length += len(part)
        data = b"".join([data, *parts])
        self.left = b"" if size < 0 else data[size:]
        return data if size < 0 else data[:size]


def artifacts_at(uri: str, tracking: str) -> Artifacts:
    """Returns the artifacts under a URI. tracking: address of MLflow, for mlflow-artifacts: URIs."""
    scheme, _, rest = uri.partition(":")
    if scheme == "mlflow-artifacts":
        return ProxiedArtifacts(tracking, rest.partition("//")[2].partition("/")[2] if rest.startswith("//") else rest)
    if scheme == "file":
        from urllib.parse import unquote, urlparse

        return LocalArtifacts(Path(unquote(urlparse(uri).path)))
    return StoredArtifacts(uri)


def download(source: Artifacts, target: Path) -> Path:
    """Copies all files into a folder, each read once, and returns it."""
    for name in source.names():
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with source.open(name) as stream, path.open("wb") as out:
            shutil.copyfileobj(stream, out, 1 << 20)
    return target


def request(method: str, url: str, **settings: Any) -> Any:
    """Returns the answer of MLflow's server, with the credentials of MLFLOW_TRACKING_TOKEN or MLFLOW_TRACKING_USERNAME and _PASSWORD.

    Raises InputError if the server does not answer, refuses the credentials or fails.
    """
    requests = require("requests", "registry")
    user, token = os.environ.get("MLFLOW_TRACKING_USERNAME"), os.environ.get("MLFLOW_TRACKING_TOKEN")
    settings["auth"] = (user, os.environ.get("MLFLOW_TRACKING_PASSWORD", "")) if user else None
    settings["headers"] = {"Authorization": f"Bearer {token}"} if token and not user else {}
    address = url.partition("/api/")[0]
    try:
        answer = requests.request(method, url, timeout=(CONNECT_SECONDS, READ_SECONDS if settings.get("stream") else CONNECT_SECONDS), **settings)
    except requests.RequestException as error:
        found = f"no answer ({type(error).__name__})"
        raise InputError(address, "", found, "MLflow's server", "check the address, the network, and that the server runs") from None
    if answer.status_code in (401, 403) or answer.status_code >= 500:
        fix = "it may not allow this Host (MLFLOW_SERVER_ALLOWED_HOSTS), or the credentials" if answer.status_code == 403 else "see its log"
        raise InputError(address, "", f"status {answer.status_code}: {answer.text[:120]}", "an answer", fix)
    return answer


def missing(path: object, found: str) -> IntegrityError:
    return IntegrityError(path, "", found, "a file of the registered version", "restore it from a copy, or register the model again")
