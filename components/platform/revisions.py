"""Data revisions: an embedded git and DVC registry with a directory for its remote.

The registry is a git repository whose commits name data by hash; `record_revision` returns such a commit. Shards and one manifest are
tracked, never one file a clip. DVC reads its remotes from the requested revision, so they are committed before the first data.
"""

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from moworld.errors import InputError
from moworld.files import link_or_copy

TRACKED = "features"


def record_revision(folder: str, registry: str, message: str, remote: str = "") -> str:
    """Put the folder's files into the registry as its next revision and push them to its remote; returns the git commit.

    remote: where a registry that does not exist yet shall keep its data, for example s3://bucket/data; "" for a folder beside it. The
            endpoint and keys of S3 come from the environment (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)

    Unchanged data makes no new commit. Raises InputError when the folder is missing or empty, or the remote cannot be reached.
    """
    source, root = Path(folder), Path(registry).absolute()
    if not source.is_dir() or not any(source.iterdir()):
        raise InputError(source, "", "no data", "a folder with files", "run the step that makes it")
    with _at_work(root):
        from dvc.exceptions import DvcException
        from dvc.repo import Repo

        _init(root, remote)
        target = root / TRACKED
        shutil.rmtree(target, ignore_errors=True)
        for path in sorted(source.rglob("*")):
            if path.is_file():
                link_or_copy(path, target / path.relative_to(source))
        with Repo(str(root)) as repo:
            repo.add(str(target))
            try:
                repo.push()
            except (DvcException, OSError) as error:
                url = repo.config["remote"]["store"]["url"]
                raise InputError(
                    url, "", " ".join(str(error).split())[:160], "a remote that takes data", "check endpoint and keys"
                ) from None
        _git(root, "add", f"{TRACKED}.dvc", ".gitignore")
        if _git(root, "status", "--porcelain", "--untracked-files=no"):
            _git(root, "commit", "-q", "-m", message)
        return _git(root, "rev-parse", "HEAD")


def fetch_revision(registry: str, revision: str, out: str) -> None:
    """Bring the data of a revision back into the folder `out`. Raises InputError for an unknown revision."""
    root = Path(registry).absolute()
    with _at_work(root):
        from dvc.api import DVCFileSystem
        from dvc.exceptions import DvcException

        try:
            DVCFileSystem(str(root), rev=revision).get(TRACKED, out, recursive=True)
        except (DvcException, OSError) as error:
            raise InputError(root, revision, f"{type(error).__name__}", "a revision of the data", "see 'git log' there") from None


def newest_revision(registry: str) -> str:
    """The commit of the data that was recorded last; "" for a registry without any."""
    root = Path(registry).absolute()
    return _git(root, "rev-parse", "--verify", "-q", "HEAD", check=False) if (root / f"{TRACKED}.dvc").is_file() else ""


def read_index(registry: str, revision: str) -> list[dict[str, Any]]:
    """Rows of the features' index as of a revision, without fetching the shards. Raises InputError for an unknown revision."""
    import io

    from pyarrow import parquet

    root = Path(registry).absolute()
    with _at_work(root):
        from dvc.api import DVCFileSystem
        from dvc.exceptions import DvcException

        try:
            with DVCFileSystem(str(root), rev=revision).open(f"{TRACKED}/index.parquet", "rb") as stream:
                return list(parquet.read_table(io.BytesIO(stream.read())).to_pylist())
        except (DvcException, OSError) as error:
            raise InputError(root, revision, f"{type(error).__name__}", "a revision of the data", "see 'git log' there") from None


def _init(root: Path, remote: str) -> None:
    if (root / ".dvc" / "config").is_file() and _git(root, "rev-parse", "--verify", "-q", "HEAD", check=False):
        return
    from dvc.repo import Repo

    _git(root, "init", "-q")
    with Repo.init(str(root), force=True) as repo:
        if remote:
            store = {"url": remote, **({"endpointurl": os.environ["AWS_ENDPOINT_URL"]} if os.environ.get("AWS_ENDPOINT_URL") else {})}
        else:
            beside = root.with_name(root.name + "-store")
            beside.mkdir(parents=True, exist_ok=True)
            store = {
                "url": os.path.relpath(beside)
            }  # DVC takes it from here and keeps it from its configuration's folder: the pair can move
        with repo.config.edit("repo") as config:
            config["core"].update(remote="store", analytics=False, check_update=False, autostage=False)
            config["cache"]["type"] = ["hardlink", "copy"]
            config["remote"]["store"] = store
    _git(root, "add", ".dvc/config", ".dvc/.gitignore", ".dvcignore")
    _git(root, "commit", "-q", "-m", "The registry and its remote")


def _git(root: Path, *arguments: str, check: bool = True) -> str:
    identity = ["-c", "user.name=moworld", "-c", "user.email=moworld@localhost", "-c", "commit.gpgsign=false"]
    command = ["git", *identity, "-C", str(root), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise InputError("git", "", "no such command", "git on the path", "install git") from None
    if check and done.returncode:
        raise RuntimeError(f"git {arguments[0]} in {root}: {done.stderr.strip()}")
    return done.stdout.strip()


@contextmanager
def _at_work(root: Path) -> Iterator[None]:
    """One process at a time, without analytics, with DVC's own state beside the registry."""
    root.mkdir(parents=True, exist_ok=True)
    values = {"DVC_NO_ANALYTICS": "1", "DVC_SITE_CACHE_DIR": str(root.with_name(root.name + "-cache"))}
    before = {key: os.environ.get(key) for key in values}
    with open(root.with_name(root.name + ".lock"), "a", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.environ.update(values)
        try:
            yield
        finally:
            for key, value in before.items():
                os.environ.pop(key) if value is None else os.environ.update({key: value})
