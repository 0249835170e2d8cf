"""Data revisions: a git and DVC registry with a DVC remote.

The registry is a git repository whose commits identify data by hash; `record_revision` returns such a commit. It tracks shards and
one manifest, never one file per clip. DVC reads remotes from the requested revision, so they are committed before the first data.
"""

import fcntl
import logging
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from moworld.errors import InputError
from moworld.extras import require
from moworld.files import link_or_copy, read_parquet
from moworld_ops.components.platform.home import environment

TRACKED = "features"


def record_revision(folder: str, registry: str, message: str, remote: str = "") -> str:
    """Commits the folder's files as the next revision, pushes them to the remote and returns the git commit.

    remote: where a new registry keeps its data, for example s3://bucket/data; "" for a folder next to it. S3's endpoint and keys come
            from the environment (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)

    Unchanged data creates no commit. Raises InputError if the folder is missing or empty, or the remote is not reachable.
    """
    source, root = Path(folder), Path(registry).absolute()
    if not source.is_dir() or not any(source.iterdir()):
        raise InputError(source, "", "no data", "a folder with files", "run the step that writes it")
    with _exclusive(root):
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
                url, found = repo.config["remote"]["store"]["url"], " ".join(str(error).split())[:160]
                raise InputError(url, "", found, "a writable remote", "check endpoint and keys") from None
        _git(root, "add", f"{TRACKED}.dvc", ".gitignore")
        if _git(root, "status", "--porcelain", "--untracked-files=no"):
            _git(root, "commit", "-q", "-m", message)
        return _head(root)


def fetch_revision(registry: str, revision: str, out: str) -> None:
    """Copies the data of a revision into the folder `out`. Raises InputError for an unknown revision."""
    with _file_system(registry, revision) as files:
        files.get(TRACKED, out, recursive=True)


def newest_revision(registry: str) -> str:
    """Returns the newest data commit; "" for a registry without data."""
    root = Path(registry).absolute()
    return _head(root) if (root / f"{TRACKED}.dvc").is_file() else ""


def indexed_revisions(registry: str) -> dict[str, list[dict[str, Any]]]:
    """Returns the rows of the feature index of every data revision, newest first; {} for a registry without data."""
    root = Path(registry).absolute()
    if not newest_revision(registry):
        return {}
    return {revision: read_index(registry, revision) for revision in _git(root, "log", "--format=%H", "--", f"{TRACKED}.dvc").split()}


def read_index(registry: str, revision: str) -> list[dict[str, Any]]:
    """Returns the rows of the feature index at a revision; shards are not fetched. Raises InputError for an unknown revision."""
    with _file_system(registry, revision) as files, files.open(f"{TRACKED}/index.parquet", "rb") as stream:
        return list(read_parquet(stream).to_pylist())


def stored_shards(registry: str, revision: str, names: list[str], delete: bool = False) -> list[str]:
    """Returns where DVC's cache and remote have shards of a revision; with `delete`, deletes them there and in the newest revision's folder."""
    root, found = Path(registry).absolute(), []
    with _exclusive(root):
        from dvc.api import DVCFileSystem
        from dvc.repo import Repo

        files = DVCFileSystem(str(root), rev=revision)
        hashes = [files.info(f"{TRACKED}/{name}")["dvc_info"]["md5"] for name in names]
        with Repo(str(root)) as repo:
            for store in (repo.cache.local, repo.cloud.get_remote_odb("store")):
                places = [store.oid_to_path(value) for value in hashes]
                there = [path for path in places if store.fs.exists(path)]
                found += [store.fs.unstrip_protocol(path) for path in there]
                if delete:
                    store.fs.remove(there)
    return found


@contextmanager
def _file_system(registry: str, revision: str) -> Iterator[Any]:
    """Gives a read-only file system of a revision. Raises InputError for an unknown revision or missing data."""
    root = Path(registry).absolute()
    with _exclusive(root):
        from dvc.api import DVCFileSystem
        from dvc.exceptions import DvcException

        try:
            yield DVCFileSystem(str(root), rev=revision)
        except (DvcException, OSError) as error:
            raise InputError(root, revision, type(error).__name__, "a revision of the data", "see 'git log' there") from None


def _init(root: Path, remote: str) -> None:
    if (root / ".dvc" / "config").is_file() and _head(root):
        return
    from dvc.repo import Repo

    _git(root, "init", "-q")
    store = {"url": remote}
    if remote and os.environ.get("AWS_ENDPOINT_URL"):
        store["endpointurl"] = os.environ["AWS_ENDPOINT_URL"]
    elif not remote:
        default = root.with_name(root.name + "-store")
        default.mkdir(parents=True, exist_ok=True)
        store["url"] = os.path.relpath(default)  # DVC stores it relative to its configuration, so both folders can move together
    with Repo.init(str(root), force=True) as repo, repo.config.edit("repo") as config:
        config["core"].update(remote="store", analytics=False, check_update=False, autostage=False)
        config["cache"]["type"] = ["hardlink", "copy"]
        config["remote"]["store"] = store
    _git(root, "add", ".dvc/config", ".dvc/.gitignore", ".dvcignore")
    _git(root, "commit", "-q", "-m", "The registry and its remote")


def _head(root: Path) -> str:
    """Returns the newest commit, or ""."""
    return _git(root, "rev-parse", "--verify", "-q", "HEAD", check=False)


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
def _exclusive(root: Path) -> Iterator[None]:
    """Locks the registry against other processes; DVC runs without analytics and keeps its own state next to the registry."""
    require("dvc", "registry")
    logging.getLogger("dvc").setLevel(logging.WARNING)  # it prints hints for a user of its own command line
    root.mkdir(parents=True, exist_ok=True)
    with open(root.with_name(root.name + ".lock"), "a", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with environment(DVC_NO_ANALYTICS="1", DVC_SITE_CACHE_DIR=str(root.with_name(root.name + "-cache"))):
            yield
