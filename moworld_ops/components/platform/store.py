"""Store of what steps write on a cluster: it stays on the shared volume, and the artifact that KFP uploads only names it.

    <state folder>/store/<sha256>/         the files of an output, named by `moworld.files.sha256_tree`
    <state folder>/store/hashes/<sha256>   the SHA-256 of each of its files, JSON
    <state folder>/store/runs/<sha256>/    an empty file for each run that wrote or read it, by the run's id
    <state folder>/store/incoming/         outputs of steps at work

A component asks for its paths with `input_path` and `output_path`. An output is written to the volume directly, so files that it shares
with an input are hard links, and neither a launcher nor KFP copies them. A folder below SMALL_BYTES is uploaded whole: KFP's page
shows it. Outside a pod there is no store, and the paths are those of the artifacts.
"""

import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from moworld.errors import InputError
from moworld.files import link_or_copy, read_json_object, sha256_file, sha256_of_hashes, write_json
from moworld_ops.components.platform.context import context
from moworld_ops.components.platform.home import home

POINTER = "stored.json"  # the only file of an artifact whose content is in the store
SMALL_BYTES = 8 * 2**20
FOLDER, HASHES, RUNS, INCOMING = "store", "hashes", "runs", "incoming"

_known: dict[tuple[int, int], str] = {}  # device and inode of each file of this step's inputs, to its SHA-256


def input_path(artifact: Any) -> str:
    """Returns where an input is: in the store if its artifact names it, else where KFP has put it.

    artifact: with .path
    Raises InputError if the store no longer has it.
    """
    pointer = Path(artifact.path) / POINTER
    if not pointer.is_file():
        return str(artifact.path)
    digest = str(read_json_object(pointer).get("sha256"))
    entry = _root() / digest
    if not re.fullmatch("[0-9a-f]{64}", digest) or not entry.is_dir():
        fix = "run the step that wrote it again; what no run has used for a month is removed from the store"
        raise InputError(pointer, "sha256", f"{digest}, which is not in {_root()}", "an entry of the store", fix)
    _note_run(digest)
    for name, value in read_json_object(_root() / HASHES / digest).items():
        found = (entry / name).stat()
        _known[found.st_dev, found.st_ino] = value
    return str(entry)


def output_path(artifact: Any) -> str:
    """Returns where a step writes an output that is a folder: on the volume in a pod, else the artifact's own path."""
    place = context()
    if not place.namespace:
        return str(artifact.path)
    target = _incoming(artifact.path)
    shutil.rmtree(target, ignore_errors=True)  # of an attempt that was killed
    target.parent.mkdir(parents=True, exist_ok=True)
    return str(target)


def keep(path: str) -> str | None:
    """Moves an output that was written to the volume into the store, and makes the artifact at `path` name it; returns its SHA-256.

    None for one that was written to `path` itself. A small folder is copied there.
    """
    written = _incoming(path)
    if not context().namespace or not written.is_dir():
        return None
    files = sorted(file for file in written.rglob("*") if file.is_file())
    hashes = {file.relative_to(written).as_posix(): _hash(file) for file in files}
    digest, size = sha256_of_hashes(hashes), sum(file.stat().st_size for file in files)
    shutil.rmtree(path, ignore_errors=True)
    if size < SMALL_BYTES:
        shutil.copytree(written, path)
    else:
        (_root() / HASHES).mkdir(exist_ok=True)
        write_json(_root() / HASHES / digest, hashes)
        _note_run(digest)
        if not (_root() / digest).is_dir():  # else an earlier attempt, or another run, wrote the same
            os.replace(written, _root() / digest)
        Path(path).mkdir(parents=True)
        write_json(Path(path) / POINTER, {"sha256": digest, "bytes": size, "files": len(files), "path": str(_root() / digest)})
    discard(path)
    return digest


def discard(path: str) -> None:
    """Removes what a step wrote to the volume for an output."""
    if context().namespace:
        shutil.rmtree(_incoming(path), ignore_errors=True)


def remove(root: Path, digest: str) -> None:
    """Removes an entry of the store at `root`, its note of runs last: what is interrupted is repeated."""
    shutil.rmtree(root / digest, ignore_errors=True)
    (root / HASHES / digest).unlink(missing_ok=True)
    shutil.rmtree(root / RUNS / digest, ignore_errors=True)


def copy_tree(source: Path, target: Path) -> None:
    """Copies a folder into another one, by hard links where the file system has them."""

    def link(file: str, new: str) -> None:
        Path(new).unlink(missing_ok=True)  # a copy would write into the file that it is a link to
        link_or_copy(file, new)

    shutil.copytree(source, target, copy_function=link, dirs_exist_ok=True)


def _root() -> Path:
    return home() / FOLDER


def _incoming(path: str) -> Path:
    """Returns the folder for an output of this run's step: the same in each attempt, so that nothing of a killed one is left."""
    place = context()
    key = hashlib.sha256(json.dumps([place.run, place.step, path]).encode()).hexdigest()[:16]
    return _root() / INCOMING / key / Path(path).name


def _note_run(digest: str) -> None:
    folder = _root() / RUNS / digest
    folder.mkdir(parents=True, exist_ok=True)
    (folder / (context().run or "none")).touch()


def _hash(file: Path) -> str:
    """Returns the SHA-256 of a file, which is known without reading if an input has the same file."""
    found = file.stat()
    return _known.get((found.st_dev, found.st_ino)) or sha256_file(file)
