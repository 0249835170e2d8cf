"""Data revisions: a git and DVC registry with a DVC remote.

The registry is a git repository whose commits identify data by hash; `record_revision` returns such a commit. It tracks shards and
one manifest, never one file per clip. DVC reads remotes from the requested revision, so they are committed before the first data.
"""

import fcntl
import hashlib
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
from moworld.files import atomic_folder, link_or_copy, read_parquet
from moworld_ops.components.platform.home import environment

TRACKED = "features"


def record_revision(folder: str, registry: str, message: str, remote: str = "", base: str = "") -> str:
    """Commits the folder's files as the next revision, pushes them to the remote and returns the git commit.

    remote: where a new registry keeps its data, for example s3://bucket/data; "" for a folder next to it. S3's endpoint and keys come
            from the environment (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)
    base:   the revision that the data extends; "" for none

    Unchanged data creates no commit. Raises InputError if the folder is missing or empty, the remote is not reachable, or the newest
    revision is neither `base` nor this data.
    """
    source, root = Path(folder), Path(registry).absolute()
    if not source.is_dir() or not any(source.iterdir()):
        raise InputError(source, "", "no data", "a folder with files", "run the step that writes it")
    with _exclusive(root):
        from dvc.exceptions import DvcException
        from dvc.repo import Repo

        _init(root, remote)
        before = _head(root)
        target = root / TRACKED
        shutil.rmtree(target, ignore_errors=True)
        for path in sorted(source.rglob("*")):
            if path.is_file():
                link_or_copy(path, target / path.relative_to(source))
        with Repo(str(root)) as repo:
            repo.add(str(target))
            if base and base != before and _changed(root):
                _git(root, "checkout", "-q", "--", f"{TRACKED}.dvc")
                fix = "run the import again: what is in the data already is not decoded again"
                raise InputError(root, "", f"revision {before[:12]}, which another run recorded", f"revision {base[:12]}, which the data extends", fix)
            try:
                repo.push()
            except (DvcException, OSError) as error:
                url, found = repo.config["remote"]["store"]["url"], " ".join(str(error).split())[:160]
                raise InputError(url, "", found, "a writable remote", "check endpoint and keys") from None
        _git(root, "add", f"{TRACKED}.dvc", ".gitignore")
        if _changed(root):
            _git(root, "commit", "-q", "-m", message)
        return _head(root)


def _changed(root: Path) -> bool:
    return bool(_git(root, "status", "--porcelain", "--untracked-files=no"))


def link_revision(registry: str, revision: str, out: Path) -> None:
    """Puts the data of a revision into the folder `out`: hard links for the newest one, where the file system has them, else copies."""
    root = Path(registry).absolute()
    with _exclusive(root):
        from dvc.repo import Repo

        newest = _head(root) == revision
        if newest:
            with Repo(str(root)) as repo:
                repo.pull(targets=[str(root / f"{TRACKED}.dvc")], force=True)
            for path in (path for path in (root / TRACKED).rglob("*") if path.is_file()):
                link_or_copy(path, out / path.relative_to(root / TRACKED))
    if not newest:
        fetch_revision(registry, revision, str(out / TRACKED))
        for path in (out / TRACKED).iterdir():
            path.rename(out / path.name)
        (out / TRACKED).rmdir()


def fetch_revision(registry: str, revision: str, out: str) -> None:
    """Copies the data of a revision into the new folder `out`, completely or not at all.

    Raises InputError for a folder with files, for an unknown revision, and for data that is missing or damaged.
    """
    _fetch(registry, revision, TRACKED, out)


def fetch_folder(registry: str, revision: str, name: str, out: str) -> None:
    """Copies one folder of a revision's data, such as its codec, to the new folder `out`. Raises InputError as `fetch_revision`."""
    _fetch(registry, revision, f"{TRACKED}/{name}", out)


def _fetch(registry: str, revision: str, path: str, out: str) -> None:
    target = Path(out)
    if target.is_dir() and any(target.iterdir()):
        raise InputError(target, "", "a folder with files", "a new folder", "choose another one")
    with _file_system(registry, revision) as files, atomic_folder(target) as folder:
        found = sorted(files.find(path, detail=True).items()) if files.exists(path) else []
        if not found:
            raise InputError(registry, f"revision {revision[:12]}", f"no {path}", "a revision with data", "see 'moworld data list'")
        for name, facts in found:
            place = folder / os.path.relpath(name.lstrip("/"), path)
            place.parent.mkdir(parents=True, exist_ok=True)
            files.get_file(name, str(place))
            with place.open("rb") as stream:
                digest, expected = hashlib.file_digest(stream, "md5").hexdigest(), facts["dvc_info"]["md5"]
            if digest != expected:
                fix = "restore it there from a copy of the remote, or record the data again in a new registry"
                raise InputError(name, f"revision {revision[:12]}", f"damaged bytes (MD5 {digest}) in the cache or the remote", expected, fix)


def read_part(registry: str, revision: str, name: str) -> bytes:
    """Returns a small file of a revision's data; b"" if the revision has none of this name. Raises InputError for an unknown revision."""
    with _file_system(registry, revision) as files:
        if not files.exists(f"{TRACKED}/{name}"):
            return b""
        with files.open(f"{TRACKED}/{name}", "rb") as stream:
            return bytes(stream.read())


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
        from dvc_data.index import DataIndexDirError

        if _git(root, "cat-file", "-t", revision, check=False) != "commit":
            raise InputError(root, revision, "no such revision", "a revision of the data", "see 'moworld data list'")
        try:
            yield DVCFileSystem(str(root), rev=revision)
        except (DvcException, DataIndexDirError, OSError) as error:
            found = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            fix = "restore the remote that .dvc/config of the revision names, or choose a revision of 'moworld data list'"
            raise InputError(root, revision, found, "its data in the cache or the remote", fix) from None


def _init(root: Path, remote: str) -> None:
    """Makes a registry. An existing one gets another remote, to which the data of its revisions is copied."""
    if (root / ".dvc" / "config").is_file() and _head(root):
        _change_remote(root, remote)
        if _git(root, "ls-files", f"{TRACKED}.dvc"):
            _git(root, "checkout", "-q", "HEAD", "--", f"{TRACKED}.dvc")  # what a killed process or a merge left there
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


def _change_remote(root: Path, remote: str) -> None:
    """Commits another URL of the remote and copies what the cache and the former remote have; does nothing for "" and for the same one."""
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        known = str(repo.config["remote"]["store"]["url"])
        if not remote or known == remote or ("://" not in remote and Path(known).resolve() == Path(remote).resolve()):
            return
        _of_all_revisions(repo.fetch, known)
        with repo.config.edit("repo") as config:
            config["remote"]["store"]["url"] = remote if "://" in remote else str(Path(remote).resolve())
    with Repo(str(root)) as repo:
        _of_all_revisions(repo.push, remote)
    _git(root, "add", ".dvc/config")
    _git(root, "commit", "-q", "-m", f"The remote is {remote}")


def _of_all_revisions(transfer: Any, url: str) -> None:
    """Fetches or pushes the data of all revisions. What cannot be transferred, such as erased shards, is a warning."""
    from dvc.exceptions import DvcException

    try:
        transfer(all_commits=True)
    except (DvcException, OSError) as error:
        logging.getLogger("moworld.steps").warning("%s: not everything of earlier revisions was copied: %s", url, error)


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
    if check and done.returncode and "index.lock" in done.stderr:
        lock = root / ".git" / "index.lock"
        raise InputError(lock, "", "a lock of another git command", "no lock", "remove the file if no git command runs there")
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
