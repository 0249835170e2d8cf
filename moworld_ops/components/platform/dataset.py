"""The data set that imports extend: the clips of the newest data revision, kept beside the registry, and its history.

    <registry>-clips/<revision>/   clips folder: manifest, files (hard links where the file system has them), sources.parquet, rejected.parquet

A revision under DVC has the manifest as clips.parquet and the two files of the history, never the clips themselves.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from moworld.data.clips import MANIFEST, link_files, read_manifest, write_manifest
from moworld.data.discovery import Fate
from moworld.data.history import REJECTED, SOURCES, WITHDRAWN, Earlier, Rejection, read_base, write_rows
from moworld.errors import InputError
from moworld.files import atomic_folder, link_or_copy
from moworld_ops.components.platform.home import home
from moworld_ops.components.platform.revisions import link_revision, newest_revision, read_part, record_revision

CLIPS = "clips.parquet"  # the manifest of a revision's clips, beside its index
HISTORY = {MANIFEST: CLIPS, SOURCES: SOURCES, REJECTED: REJECTED}  # file of a clips folder: its name in a revision
REPLACE = "start a new data set with --replace (moworld data import) or --set data.append=false (moworld run data)"


def default_registry(registry: str = "") -> str:
    """Returns the folder of the data registry: the given one, or that of the state folder."""
    return registry or str(home() / "registry")


def clips_folder(registry: str, revision: str) -> Path:
    """Returns where the clips of a revision are kept while it is the newest."""
    root = Path(registry).absolute()
    return root.with_name(root.name + "-clips") / revision


def earlier_clips(registry: str, append: bool = True, keep_codec: bool = True) -> Earlier | None:
    """Returns the clips of the newest revision, which an import extends; None for a registry without data.

    append: false for the history alone, without the clips: what was withdrawn stays out of a new data set, too
    Raises InputError if the clips of the revision are not kept here.
    """
    if not (revision := newest_revision(registry)):
        return None
    folder = clips_folder(registry, revision)
    if not folder.is_dir():
        if not append:
            return None
        raise InputError(folder, "", "no clips of the newest data revision", "the folder that its run kept", f"copy it from where it was made, or {REPLACE}")
    base = {"revision": revision, "registry": registry, "keep_codec": keep_codec}
    found = Earlier.read(folder, base)
    return found if append else Earlier(folder, [], found.sources)


def record_data_set(features: str, clips: str, registry: str, remote: str = "", message: str = "features") -> str:
    """Records features with the manifest and history of their clips as the next revision, and keeps the clips; returns the revision.

    Raises InputError if another run has recorded a revision since the clips extended the newest one.
    """
    for name, stored in HISTORY.items():
        if (Path(clips) / name).is_file():
            (Path(features) / stored).unlink(missing_ok=True)
            link_or_copy(Path(clips) / name, Path(features) / stored)
    revision = record_revision(features, registry, message, remote, read_base(clips).get("revision", ""))
    keep_clips(clips, registry, revision)
    return revision


def keep_clips(clips: str, registry: str, revision: str) -> None:
    """Keeps the clips of the newest revision, by hard links, and forgets those of older ones."""
    target = clips_folder(registry, revision)
    if not target.is_dir():
        with atomic_folder(target) as folder:
            for path in (Path(clips) / name for name in HISTORY):
                if path.is_file():
                    link_or_copy(path, folder / path.name)
            for clip in read_manifest(clips):
                link_files(clip, clips, folder)
    for other in target.parent.iterdir():
        if other != target:
            shutil.rmtree(other, ignore_errors=True)


@contextmanager
def earlier_features(clips: str, place: str) -> Iterator[str | None]:
    """Gives the features of the revision that the clips extend, in a folder beside `place`; None if they extend none."""
    base = read_base(clips)
    if not base:
        yield None
        return
    with TemporaryDirectory(prefix=".earlier-", dir=Path(place).parent) as scratch:
        link_revision(base["registry"], base["revision"], Path(scratch))
        yield scratch


def check_frame_size(earlier: Earlier | None, size_hw: tuple[int, int]) -> None:
    """Raises InputError if the revision that is extended has frames of another size, for which its codec was not trained."""
    if earlier is None or not earlier.base.get("keep_codec"):
        return
    registry, revision = earlier.base["registry"], earlier.base["revision"]
    world = json.loads(read_part(registry, revision, "world.json"))
    if (world["height"], world["width"]) != size_hw:
        found = f"{world['height']}x{world['width']} in revision {revision[:12]}"
        fix = f"train its codec again (--set data.keep_codec=false), or {REPLACE}"
        raise InputError("data", "height, width", f"{size_hw[0]}x{size_hw[1]}", found, fix)


def withdraw_clips(registry: str, revision: str, removed: dict[str, str], target: Path, reason: str) -> None:
    """Writes the clips of a revision without some, by clip_id, into the clips folder `target`; files without a clip left are `withdrawn`."""
    earlier = Earlier.read(clips_folder(registry, revision), {})
    kept = [clip for clip in earlier.clips if clip.clip_id not in removed]
    left = {clip.source_sha256 for clip in kept}
    gone = {clip.source_sha256 for clip in earlier.clips if clip.clip_id in removed} - left
    sources = [replace(row, fate=WITHDRAWN, why=reason) if row.sha256 and row.sha256 in gone else row for row in earlier.sources]
    target.mkdir(parents=True, exist_ok=True)
    for clip in kept:
        link_files(clip, earlier.folder, target)
    write_manifest(target, kept)
    write_rows(target, SOURCES, sources, Fate)
    write_rows(target, REJECTED, earlier.rejected, Rejection)
