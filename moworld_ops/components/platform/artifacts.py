"""Files of a registered version, read where they are: in a folder, in an object store (fsspec), or through MLflow's artifact proxy."""

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol
from urllib.parse import quote

from pydantic import BaseModel, ValidationError

from moworld.errors import InputError, IntegrityError, invalid_value
from moworld.extras import require

CONNECT_SECONDS, READ_SECONDS = 5.0, 60.0
ANSWER_SECONDS = 7.0  # from a request to its whole answer, unless it is streamed
MAX_DEPTH = 50
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
        """Returns also the names of links to folders, pipes and whatever else is no folder: none of these was signed."""
        return sorted(path.relative_to(self.root).as_posix() for path in self.root.rglob("*") if path.is_symlink() or not path.is_dir())

    def open(self, name: str) -> IO[bytes]:
        if (self.root / name).exists() and not (self.root / name).is_file():  # opening a pipe would wait for its writer
            raise missing(self.root / name, "no regular file")
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

    @contextmanager
    def open(self, name: str) -> Iterator[Any]:
        where = f"{self.uri}/{name}"
        with _readable(where):
            stream = self.system.open(f"{self.root}/{name}", "rb")
        with stream:
            yield _Reader(where, stream)

    def remove(self) -> None:
        self.system.rm(self.root, recursive=True)

    def at(self, folder: str) -> "StoredArtifacts":
        return StoredArtifacts(f"{self.uri}/{folder}")


class _File(BaseModel):
    path: str
    is_dir: bool = False


class _Listing(BaseModel):
    """MLflow's answer with the files of a folder."""

    files: list[_File] = []


class ProxiedArtifacts:
    """Artifacts behind MLflow's proxy (`--serve-artifacts`), by the path of an mlflow-artifacts: URI."""

    def __init__(self, tracking: str, path: str) -> None:
        self.tracking, self.path = tracking.rstrip("/"), path.strip("/")

    def names(self) -> list[str]:
        return sorted(self._walk(""))

    def _walk(self, folder: str) -> Iterator[str]:
        where = f"{self.path}/{folder}".rstrip("/")
        answer = request("GET", f"{self.tracking}/{PROXY}?path={quote(where)}")
        try:
            files = [] if answer.status_code == 404 else _Listing.model_validate_json(answer.content).files
        except ValidationError as error:
            wrong = invalid_value(self.tracking, error, "check the address")
            raise InputError(self.tracking, where, wrong.found, "MLflow's list of files", "check the address") from None
        if folder.count("/") > MAX_DEPTH:
            raise InputError(self.tracking, where, f"more than {MAX_DEPTH} nested folders", "the files of a version", "check the address")
        for entry in files:
            last = entry.path.rpartition("/")[2]
            if last in ("", ".", ".."):
                raise InputError(self.tracking, where, entry.path, "the path of a file", "check the address")
            name = f"{folder}/{last}".lstrip("/")
            if entry.is_dir:
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
            yield _Reader(url, _Stream(answer))

    def remove(self) -> None:
        request("DELETE", f"{self.tracking}/{PROXY}/{quote(self.path)}")

    def at(self, folder: str) -> "ProxiedArtifacts":
        return ProxiedArtifacts(self.tracking, f"{self.path}/{folder}")


class _Reader:
    """Reads a stream of a store or a server, whose errors become InputError: each has errors of its own."""

    def __init__(self, where: str, stream: Any) -> None:
        self.where, self.stream = where, stream

    def read(self, size: int = -1) -> bytes:
        with _readable(self.where):
            return bytes(self.stream.read(size))


@contextmanager
def _readable(where: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise missing(where, str(error)) from None
    except Exception as error:  # each store has errors of its own
        raise InputError(where, "", f"{type(error).__name__}: {error}", "a file that can be read", "check network and credentials, then try again") from None


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

    As MLflow's client, it works in the workspace of MLFLOW_WORKSPACE.

    Raises InputError if the server does not answer, refuses the credentials or fails.
    """
    requests = require("requests", "registry")
    user, token = os.environ.get("MLFLOW_TRACKING_USERNAME"), os.environ.get("MLFLOW_TRACKING_TOKEN")
    settings["auth"] = (user, os.environ.get("MLFLOW_TRACKING_PASSWORD", "")) if user else None
    workspace = os.environ.get("MLFLOW_WORKSPACE", "").strip()
    settings["headers"] = ({"Authorization": f"Bearer {token}"} if token and not user else {}) | ({"X-MLFLOW-WORKSPACE": workspace} if workspace else {})
    address = url.partition("/api/")[0]
    try:
        answer = _within(lambda seconds: requests.request(method, url, timeout=(CONNECT_SECONDS, seconds), **settings), bool(settings.get("stream")))
    except requests.RequestException as error:
        found = f"no answer ({type(error).__name__})"
        raise InputError(address, "", found, "MLflow's server", "check the address, the network, and that the server runs") from None
    if answer.status_code in (401, 403) or answer.status_code >= 500:
        fix = "it may not allow this Host (MLFLOW_SERVER_ALLOWED_HOSTS), or the credentials" if answer.status_code == 403 else "see its log"
        raise InputError(address, "", f"status {answer.status_code}: {answer.text[:120]}", "an answer", fix)
    return answer


def _within(send: Callable[[float], Any], stream: bool) -> Any:
    """Returns an answer. Raises requests' Timeout if it is not whole after ANSWER_SECONDS: its own limit is for each read.

    send: gets the seconds to wait for a read. It runs in a thread, which ends with the process if the answer never does.
    """
    requests = require("requests", "registry")
    if stream:
        return send(READ_SECONDS)
    found: list[Any] = []

    def work() -> None:
        try:
            found.append(send(CONNECT_SECONDS))
        except Exception as error:  # raised again below, in the thread that waits
            found.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(ANSWER_SECONDS)
    if not found:
        raise requests.Timeout(f"no whole answer within {ANSWER_SECONDS:.0f} s")
    if isinstance(found[0], Exception):
        raise found[0]
    return found[0]


def missing(path: object, found: str) -> IntegrityError:
    return IntegrityError(path, "", found, "a file of the registered version", "restore it from a copy, or register the model again")
